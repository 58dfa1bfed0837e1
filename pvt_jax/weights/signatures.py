"""Which model a file looks like, by the sizes of its tensors alone."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from pvt_jax.weights import names
from pvt_jax.weights.dense_names import HEADS, Head
from pvt_jax.weights.dialects import DIALECTS
from pvt_jax.weights.readings import readings

Shapes = Mapping[str, tuple[int, ...]]


class Signature(NamedTuple):
    """What the sizes of a backbone's tensors tell: blocks and channels of each stage, and what else sets it apart.

    ``detail`` is, of a PVT v2, the four hidden over model channels and whether its attention is the linear one; of a
    ViT the side of a patch; of a ResNet the convolutions of a block.
    """

    family: str
    depths: tuple[int, ...]
    dims: tuple[int, ...]
    detail: tuple[int, ...] = ()

    def __str__(self) -> str:
        """The names of the models of these sizes, or the sizes."""
        names = [name for name, signature in SIGNATURES.items() if signature == self]
        if names:
            return " or ".join(names)
        return f"a {self.family} of depths {self.depths} and dims {self.dims}"


class Recognised(NamedTuple):
    """What a file says by itself; ``num_classes`` and ``image_size`` (height, width) are None if it does not.

    ``positions`` are the slots of its first position table, without those of tokens, and the side of a patch of it.
    ``head`` is that of a dense model, a key of ``dense_names.HEADS``; None if it has none of them.
    """

    signature: Signature
    num_classes: int | None
    image_size: tuple[int, int] | None
    positions: tuple[int, int] | None = None
    head: str | None = None

    def __str__(self) -> str:
        """The names of the models of these sizes, or the sizes, and of its head."""
        return f"{self.signature} with a {self.head} head" if self.head else str(self.signature)

    def may_be_for(self, image_size: tuple[int, int]) -> bool:
        """Whether the position table, if there is one, has a slot for each patch of images of this size."""
        if self.positions is None:
            return True
        slots, patch = self.positions
        return (image_size[0] // patch) * (image_size[1] // patch) == slots


_PVT, _PVT_SMALL = (64, 128, 320, 512), (32, 64, 160, 256)
_V2, _V2_B5 = (8, 8, 4, 4, 0), (4, 4, 4, 4, 0)
_RESNET = (64, 128, 256, 512)

# The same sizes as in the tables of pvt_jax/models, which this room does not import; a test compares them.
SIGNATURES: dict[str, Signature] = {
    "pvt_tiny": Signature("pvt", (2, 2, 2, 2), _PVT),
    "pvt_small": Signature("pvt", (3, 4, 6, 3), _PVT),
    "pvt_medium": Signature("pvt", (3, 4, 18, 3), _PVT),
    "pvt_large": Signature("pvt", (3, 8, 27, 3), _PVT),
    "pvt_huge_v2": Signature("pvt", (3, 10, 60, 3), (128, 256, 512, 768)),
    "pvt_v2_b0": Signature("pvt_v2", (2, 2, 2, 2), _PVT_SMALL, _V2),
    "pvt_v2_b1": Signature("pvt_v2", (2, 2, 2, 2), _PVT, _V2),
    "pvt_v2_b2": Signature("pvt_v2", (3, 4, 6, 3), _PVT, _V2),
    "pvt_v2_b2_li": Signature("pvt_v2", (3, 4, 6, 3), _PVT, (8, 8, 4, 4, 1)),
    "pvt_v2_b3": Signature("pvt_v2", (3, 4, 18, 3), _PVT, _V2),
    "pvt_v2_b4": Signature("pvt_v2", (3, 8, 27, 3), _PVT, _V2),
    "pvt_v2_b5": Signature("pvt_v2", (3, 6, 40, 3), _PVT, _V2_B5),
    "mit_b0": Signature("pvt_v2", (2, 2, 2, 2), _PVT_SMALL, _V2_B5),
    "mit_b1": Signature("pvt_v2", (2, 2, 2, 2), _PVT, _V2_B5),
    "mit_b2": Signature("pvt_v2", (3, 4, 6, 3), _PVT, _V2_B5),
    "mit_b3": Signature("pvt_v2", (3, 4, 18, 3), _PVT, _V2_B5),
    "mit_b4": Signature("pvt_v2", (3, 8, 27, 3), _PVT, _V2_B5),
    "mit_b5": Signature("pvt_v2", (3, 6, 40, 3), _PVT, _V2_B5),
    **{
        f"vit_{size}_patch{patch}": Signature("vit", (12,), (dim,), (patch,))
        for size, dim in (("tiny", 192), ("small", 384), ("base", 768))
        for patch in (4, 16, 32)
    },
    "resnet18": Signature("resnet", (2, 2, 2, 2), _RESNET, (2,)),
    "resnet34": Signature("resnet", (3, 4, 6, 3), _RESNET, (2,)),
    "resnet50": Signature("resnet", (3, 4, 6, 3), _RESNET, (3,)),
    "resnet101": Signature("resnet", (3, 4, 23, 3), _RESNET, (3,)),
}


def recognise(shapes: Shapes, *, native: bool = False) -> Recognised | None:
    """What a checkpoint with tensors of these shapes holds; None if it is no backbone known here.

    ``shapes`` are by name of any dialect, or by path in our trees if ``native``.
    """
    head, num_classes = dense_head(shapes, native=native)
    if native:
        shapes = _reference_shapes(shapes)
    best: Recognised | None = None
    for family in DIALECTS:
        for reading in readings(shapes.keys(), family):
            whole = {name: shapes[parts[0]] for name, parts in reading.sources.items() if len(parts) == 1}
            signature = signature_of(whole, family)
            if signature and (best is None or sum(signature.depths) > sum(best.signature.depths)):
                linear = whole.get("fc.weight" if family == "resnet" else "head.weight")
                positions = _positions(whole, family)
                best = Recognised(signature, linear[0] if linear else None, _image_size(positions), positions)
    return best._replace(head=head, num_classes=num_classes) if best and head else best


def signature_of(shapes: Shapes, family: str) -> Signature | None:
    """The sizes of a ``family``'s backbone whose tensors, by reference name, have these shapes; None if it is not."""
    if family == "vit":
        patch, depth = shapes.get("patch_embed.proj.weight", ()), _count("blocks.{}.norm1.weight", shapes)
        if len(patch) != 4 or not depth or "cls_token" not in shapes:
            return None
        return Signature(family, (depth,), (patch[0],), (patch[2],))
    block = "layer{}.{}.conv1.weight" if family == "resnet" else "block{}.{}.norm1.weight"
    depths = tuple(_count(block.replace("{}", str(stage), 1), shapes) for stage in range(1, 5))
    dims = tuple((shapes.get(block.format(stage, 0)) or (0,))[0] for stage in range(1, 5))
    # What PVT v2 has and v1 has not, and the other way round.
    mark = {"resnet": "bn1.running_mean", "pvt": "pos_embed1", "pvt_v2": "block1.0.mlp.dwconv.dwconv.weight"}[family]
    if not all(depths) or mark not in shapes:
        return None
    if family == "pvt":
        return Signature(family, depths, dims)
    if family == "resnet":
        return Signature(family, depths, dims, (_count("layer1.0.conv{}.weight", shapes, start=1),))
    hidden = [(shapes.get(f"block{stage}.0.mlp.fc1.weight") or (0,))[0] for stage in range(1, 5)]
    ratios = [wide // dim for wide, dim in zip(hidden, dims, strict=True)]
    return Signature(family, depths, dims, (*ratios, int("block4.0.attn.sr.weight" in shapes)))


def dense_head(shapes: Shapes, *, native: bool = False) -> tuple[str | None, int | None]:
    """The head of a dense model with tensors of these shapes, a key of ``HEADS``, and its number of classes."""
    if native:
        head = names.head_of(shapes)
        if head is None:
            return None, None
        known, (path, axis) = HEADS[head], HEADS[head].classifier
        return head, _num_classes(known, shapes.get(path, ())[axis : axis + 1], shapes.get(known.regressor, ())[-1:])
    for head, known in HEADS.items():
        entries = {path: names.entry_of(path, head) for path in (known.mark, known.classifier[0], known.regressor)}
        named = {path: entry.name for path, entry in entries.items() if entry}
        beside = names.entry_of(known.lacks, known.neck)
        for reading in readings(shapes.keys(), head) if known.mark in named else ():
            if named[known.mark] in reading.complete and not (beside and beside.name in reading.complete):
                there = {path: reading.sources[name][0] for path, name in named.items() if name in reading.sources}
                rows = {path: shapes[name][:1] for path, name in there.items()}
                return head, _num_classes(known, rows.get(known.classifier[0], ()), rows.get(known.regressor, ()))
    return None, None


def _num_classes(head: Head, outputs: tuple[int, ...], regressed: tuple[int, ...]) -> int | None:
    return head.num_classes(*outputs, *regressed) if outputs else None


def _count(pattern: str, shapes: Shapes, start: int = 0) -> int:
    number = 0
    while pattern.format(number + start) in shapes:
        number += 1
    return number


def _image_size(positions: tuple[int, int] | None) -> tuple[int, int] | None:
    """The side of the square images that the position table was made for."""
    slots, patch = positions or (0, 0)
    side = math.isqrt(slots)
    return (side * patch, side * patch) if side and side**2 == slots else None


def _positions(shapes: Shapes, family: str) -> tuple[int, int] | None:
    stage, extra = ("1", 0) if family == "pvt" else ("", 1 + ("dist_token" in shapes))
    table, patch = shapes.get(f"pos_embed{stage}"), shapes.get(f"patch_embed{stage}.proj.weight")
    if table is None or patch is None or len(table) != 3 or len(patch) != 4 or not patch[2]:
        return None
    return max(table[1] - extra, 0), patch[2]


def _reference_shapes(shapes: Shapes) -> Shapes:
    family, head, dense = names.family_of(shapes), names.head_of(shapes), names.is_dense(shapes)
    found: dict[str, tuple[int, ...]] = {}
    for path, shape in shapes.items():
        if family and (entry := names.reference_entry(path, family, head, dense)):
            kernel = path.endswith("/kernel")
            found[entry.name] = tuple(shape[i] for i in (3, 2, 0, 1)) if len(shape) == 4 and kernel else shape
            if len(shape) == 2 and kernel:
                found[entry.name] = shape[::-1]
    return found
