"""Weights of PVT v1: names of whai362/PVT and others, how its files are recognised, and published files."""

from pvt_jax.backbones.pvt_names import BESIDE, BLOCK, PYRAMID, hugging_face, of_the_authors, open_mmlab
from pvt_jax.weight_names import BackboneWeights, Dialect, PositionTable, Shapes, Sizes, stages, table

_HUGGING_FACE = {
    "encoder.patch_embeddings.#.position_embeddings": "pos_embed{A}",
    "encoder.patch_embeddings.#.cls_token": "cls_token",
    "encoder.patch_embeddings.#.projection": "patch_embed{A}.proj",
    "encoder.patch_embeddings.#.layer_norm": "patch_embed{A}.norm",
    "encoder.layer_norm": "norm",
    **hugging_face("encoder.block.#.#", "self.query", "self.sequence_reduction", "output.dense"),
}
# The position table is the first of the blocks.
_MMDETECTION = {**open_mmlab(1, {"0": "mlp.fc1", "3": "mlp.fc2"}), "layers.#.#.#.pos_embed": "pos_embed{A}"}


def _sizes_of_tensors(shapes: Shapes) -> Sizes | None:
    sizes = Sizes(*stages(BLOCK, shapes))
    return sizes if all(sizes.depths) and "pos_embed1" in shapes else None


WEIGHTS = BackboneWeights(
    mark="params/stage1/pos_embed",
    classifier=("head/linear/*", "norm/*", "cls_token"),
    rows=(*table((r"stage(\d)/pos_embed", r"pos_embed\1"), (r"cls_token", r"cls_token"), (r"norm", r"norm")), *PYRAMID),
    dialects=(Dialect("transformers", _HUGGING_FACE, "pvt."), Dialect("mmdetection PVT", _MMDETECTION)),
    beside=BESIDE,
    sizes_of_model=lambda model: Sizes(tuple(model.depths), tuple(model.dims)),
    sizes_of_tensors=_sizes_of_tensors,
    tables=tuple(
        PositionTable(f"stage{stage}/pos_embed", f"stage{stage}/patch_embed/kernel", "bilinear", tokens)
        for stage, tokens in ((1, 0), (2, 0), (3, 0), (4, 1))
    ),
    published=dict(map(of_the_authors, ("pvt_tiny", "pvt_small", "pvt_medium", "pvt_large"))),
)
