"""Weights of ResNet: names of torchvision, which timm shares, and others, recognition, and published files."""

from pvt_jax.backbones.resnet.model import ResNet
from pvt_jax.weight_names import BackboneWeights, Dialect, PublishedWeights, Shapes, Sizes, count, stages, table

_HUGGING_FACE = {
    "embedder.embedder.convolution": "conv1",
    "embedder.embedder.normalization": "bn1",
    "encoder.stages.#.layers.#.shortcut.convolution": "layer{A}.{b}.downsample.0",
    "encoder.stages.#.layers.#.shortcut.normalization": "layer{A}.{b}.downsample.1",
    "encoder.stages.#.layers.#.layer.#.convolution": "layer{A}.{b}.conv{C}",
    "encoder.stages.#.layers.#.layer.#.normalization": "layer{A}.{b}.bn{C}",
    "classifier.#": "fc",
}


def _torchvision(model: str, sha256: str, size: int | None = None) -> PublishedWeights:
    return PublishedWeights(
        model,
        f"https://download.pytorch.org/models/{model}-{sha256[:8]}.pth",
        "BSD-3-Clause",
        "torchvision's IMAGENET1K_V1, https://github.com/pytorch/vision",
        size,
        sha256,
    )


def _sizes_of_model(model: ResNet) -> Sizes:
    return Sizes(tuple(model.depths), tuple(model.dims), ({"basic": 2, "bottleneck": 3}[model.block],))


def _sizes_of_tensors(shapes: Shapes) -> Sizes | None:
    depths, dims = stages("layer{}.{}.conv1.weight", shapes)
    if not all(depths) or "bn1.running_mean" not in shapes:
        return None
    return Sizes(depths, dims, (count("layer1.0.conv{}.weight", shapes, start=1),))


WEIGHTS = BackboneWeights(
    mark="params/stem/conv/kernel",
    rows=table(
        (r"stem/conv", r"conv1"),
        (r"stem/norm", r"bn1"),
        (r"stage(\d)/block(\d+)/conv(\d)", r"layer\1.\2.conv\3"),
        (r"stage(\d)/block(\d+)/norm(\d)", r"layer\1.\2.bn\3"),
        (r"stage(\d)/block(\d+)/shortcut_conv", r"layer\1.\2.downsample.0"),
        (r"stage(\d)/block(\d+)/shortcut_norm", r"layer\1.\2.downsample.1"),
        (r"head/linear", r"fc"),
    ),
    dialects=(Dialect("transformers", _HUGGING_FACE, "resnet."),),
    # mmpretrain's classifier; its backbone has torchvision's names.
    beside={"head.fc": "fc"},
    sizes_of_model=_sizes_of_model,
    sizes_of_tensors=_sizes_of_tensors,
    published={
        row.model: row
        for row in (
            _torchvision("resnet18", "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec", 46_830_571),
            _torchvision("resnet34", "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f"),
            _torchvision("resnet50", "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a", 102_530_333),
            _torchvision("resnet101", "63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a"),
        )
    },
)
