"""Names that both generations of PVT share: of the reference, Hugging Face and the mm* libraries."""

from collections.abc import Mapping

from pvt_jax.weight_names import Part, Place, PublishedWeights, Rows, Split, inside, table

# whai362/PVT.
PYRAMID = table(
    (r"stage(\d)/patch_embed", r"patch_embed\1.proj"),
    (r"stage(\d)/patch_norm", r"patch_embed\1.norm"),
    (r"stage(\d)/block(\d+)/(norm\d)", r"block\1.\2.\3"),
    (r"stage(\d)/block(\d+)/attn/(q|kv|sr|proj)", r"block\1.\2.attn.\3"),
    (r"stage(\d)/block(\d+)/attn/sr_norm", r"block\1.\2.attn.norm"),
    (r"stage(\d)/block(\d+)/mlp/(fc\d)", r"block\1.\2.mlp.\3"),
    (r"head/linear", r"head"),
)
# mmpretrain's classifier.
BESIDE = {"head.fc": "head"}
# Tensors have this name in a block of both.
BLOCK = "block{}.{}.norm1.weight"


def hugging_face(
    block: str, query: str, reduction: str, output: str, others: Mapping[str, Place] | None = None
) -> dict[str, Place]:
    """Hugging Face's names of the blocks ``block`` and of the classifier.

    ``query``, ``reduction`` and ``output`` are names in ``attention``; the norm after the reduction stands beside the
    queries. ``others`` are further modules of a block.
    """
    beside = query.removesuffix("query")
    return {
        **inside(
            block,
            "block{A}.{b}",
            {
                "layer_norm_1": "norm1",
                f"attention.{query}": "attn.q",
                f"attention.{beside}key": Part("attn.kv", 0, 2),
                f"attention.{beside}value": Part("attn.kv", 1, 2),
                f"attention.{reduction}": "attn.sr",
                f"attention.{beside}layer_norm": "attn.norm",
                f"attention.{output}": "attn.proj",
                "layer_norm_2": "norm2",
                "mlp.dense1": "mlp.fc1",
                "mlp.dense2": "mlp.fc2",
                **(others or {}),
            },
        ),
        "classifier": "head",
    }


def open_mmlab(first_block: int, hidden: Mapping[str, str]) -> dict[str, Place]:
    """A stage is [embedding, blocks, norm], and MLPs are 1×1 convolutions; ``hidden`` are places in the latter."""
    return {
        "layers.#.#.projection": "patch_embed{A}.proj",
        "layers.#.#.norm": "patch_embed{A}.norm",
        **inside(
            "layers.#.#.#",
            "block{A}.{c}" if first_block == 0 else f"block{{A}}.{{c-{first_block}}}",
            {
                "norm1": "norm1",
                **{
                    f"attn.attn.in_proj_{leaf}": Split(
                        ((f"attn.q.{leaf}", Rows(0, 1, 3)), (f"attn.kv.{leaf}", Rows(1, 3, 3)))
                    )
                    for leaf in ("weight", "bias")
                },
                "attn.attn.out_proj": "attn.proj",
                "attn.sr": "attn.sr",
                "attn.norm": "attn.norm",
                "norm2": "norm2",
                # The other places hold what has no parameters.
                **{f"ffn.layers.{place}": name for place, name in hidden.items()},
            },
        ),
    }


def of_the_authors(model: str, sha256: str | None = None) -> tuple[str, PublishedWeights]:
    """A classifier of the PVT authors, and its name."""
    page = "https://github.com/whai362/PVT"
    url, source = f"{page}/releases/download/v2/{model}.pth", f"the authors' release v2, {page}"
    return model, PublishedWeights(model, url, "Apache-2.0", source, sha256=sha256)
