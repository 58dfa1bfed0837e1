"""What an image processor of transformers does with images, from the ``preprocessor_config.json`` of a folder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

FILE = "preprocessor_config.json"

# Mean and deviation of red, green and blue, in 0..255.
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
Resize = Literal["squash", "shorter", "within"]
Interpolation = Literal["bilinear", "bicubic"]

_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
# What a processor does where its file says nothing; old files say little.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "ViT": {"size": 224, "resample": 2, **_HALF},
    "DeiT": {"size": 256, "do_center_crop": True, "crop_size": 224, "resample": 3, **_HALF},
    "Pvt": {"size": 224, "resample": 3, **_IMAGENET},
    "Segformer": {"size": 512, "resample": 2, **_IMAGENET},
    "Bit": {"size": 224, "do_center_crop": True, "crop_size": 224, "resample": 3, **_CLIP},
    "Detr": {"size": 800, "max_size": 1333, "resample": 2, **_IMAGENET},
}
_OF_MODEL = {"vit": "ViT", "deit": "DeiT", "pvt": "Pvt", "pvt_v2": "Pvt", "segformer": "Segformer", "detr": "Detr"}
# One number is their shorter side, and that of a square for all others.
_KEEPING_ASPECT = ("Bit", "Detr")
# They never crop, whatever their file says.
_UNCROPPED = ("Segformer", "Detr")
# Padding of a batch changes no prediction, and the rest no picture that is RGB already.
_WITHOUT_EFFECT = ("do_convert_rgb", "do_convert_annotations", "do_reduce_labels")
_KNOWN = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", *_WITHOUT_EFFECT)
_FILTERS: Mapping[int, Interpolation] = {2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class Processor:
    """How images become what the model sees.

    Attributes:
      normalisation: (mean, deviation) of each channel, in 0..255; None if what the file says is none.
      resize: "squash" to ``size`` as (height, width); "shorter": until the shorter side is ``size[0]``; "within": as
        far as the sides are at most ``size``, (shorter, longer). None if it cannot be followed.
      size: see there.
      crop: (height, width) of a centre crop after that; None for none.
      interpolation: of Pillow, antialiased.
      notes: what cannot be followed, and what is odd.
    """

    normalisation: Normalisation | None
    resize: Resize | None
    size: tuple[int, int]
    crop: tuple[int, int] | None
    interpolation: Interpolation
    notes: tuple[str, ...]

    def in_words(self) -> str:
        """What it does with the sizes of images."""
        first, second = self.size
        how = {
            "squash": f"resized to {first}×{second} whatever their aspect ratio",
            "shorter": f"resized until the shorter side is {first}",
            "within": f"resized to fit into {second}×{first}",
        }
        crop = f", cropped to their centre of {self.crop[0]}×{self.crop[1]}" if self.crop else ""
        return f"{how[self.resize or 'squash']}{crop}, {self.interpolation}"


def read_processor(config: Mapping[str, Any], model_type: str) -> Processor | None:
    """What the content of the file says; None if it is empty.

    ``model_type`` of the ``config.json`` beside it decides where the file does not name its processor, as in
    transformers.
    """
    if not config:
        return None
    stated = config.get("image_processor_type") or config.get("feature_extractor_type") or ""
    kind = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", str(stated)) or _OF_MODEL.get(model_type, "")
    whole = {**_DEFAULTS.get(kind, {}), **{name: config[name] for name in config if config[name] is not None}}
    normalisation, notes = _normalisation_of(whole)
    found: tuple[Resize, tuple[int, int], tuple[int, int] | None] | str = _sizes_of(whole, kind)
    if kind not in _DEFAULTS and not (kind == "" and isinstance(whole.get("size"), dict)):
        found = f"what {stated or 'its processor'} does with them is not known here"
    resample = whole.get("resample", 2)
    interpolation = _FILTERS.get(resample) if type(resample) is int else None
    if interpolation is None and not isinstance(found, str):
        found = f"it resizes with filter {resample!r:.40} of Pillow, and 2 and 3 are followed"
    odd = [name for name, value in whole.items() if name.startswith("do_") and name not in _KNOWN and value]
    odd += ["rescale_offset"] * bool(whole.get("rescale_offset"))
    odd = [name for name in odd if (name, kind) != ("do_pad", "Detr")]
    if odd:
        notes.append(f"{FILE}: {', '.join(odd)} is not followed")
    if isinstance(found, str):
        notes.append(f"the sizes of {FILE} are not followed: {found}")
        return Processor(normalisation, None, (0, 0), None, "bilinear", tuple(notes))
    return Processor(normalisation, *found, interpolation or "bilinear", tuple(notes))


def normalisation(stated: Any) -> Normalisation | None:
    """(mean, deviation) of the entries ``mean`` and ``std``, in 0..255; None where they are not such."""
    values: list[Any] = [stated.get(name) for name in ("mean", "std")] if isinstance(stated, dict) else []
    if not values or not all(map(_is_triple, values)):
        return None
    mean, std = (tuple(map(float, triple)) for triple in values)
    return (mean, std) if max(*mean, *std) <= 255 and min(mean) >= 0 < min(std) else None


def _normalisation_of(config: Mapping[str, Any]) -> tuple[Normalisation | None, list[str]]:
    """The file's values are of pixels that were multiplied by a factor before."""
    notes: list[str] = []
    factor: Any = config.get("rescale_factor", 1 / 255)
    if config.get("do_rescale") is False:
        factor = 1.0
        notes.append(f"{FILE}: do_rescale is false, so mean and deviation are taken as those of pixels in 0..255")
    given: list[Any] = [config.get(name) for name in ("image_mean", "image_std")]
    if config.get("do_normalize") is False:
        given = [0.0, 1.0]
    mean, std = ([value] * 3 if type(value) in (int, float) else value for value in given)
    found = None
    if type(factor) in (int, float) and factor > 0 and _is_triple(mean) and _is_triple(std):
        in_bytes = {name: [round(x / factor, 4) for x in triple] for name, triple in (("mean", mean), ("std", std))}
        found = normalisation(in_bytes)
    if found is None and any(value is not None for value in given):
        text = f"mean {mean!r:.60}, deviation {std!r:.60} and rescale_factor {factor!r:.40}"
        notes.append(f"{FILE}: {text} are none of pixels in 0..255, and are not followed")
    return found, notes


def _sizes_of(config: Mapping[str, Any], kind: str) -> tuple[Resize, tuple[int, int], tuple[int, int] | None] | str:
    """(resize, size, crop), or why they cannot be followed."""
    if config.get("do_resize") is False:
        return "do_resize is false, so images keep their sizes, and a batch has one"
    size, crop = config.get("size"), None
    if type(size) is int and kind in _KEEPING_ASPECT:
        size = {"shortest_edge": size, **({"longest_edge": config["max_size"]} if "max_size" in config else {})}
    sides = _sides(size, "height", "width")
    if config.get("do_center_crop") and kind not in _UNCROPPED:
        crop = _sides(config.get("crop_size"), "height", "width")
        if crop is None:
            return f"its crop_size is {config.get('crop_size')!r:.80}"
    if sides is not None:
        return "squash", sides, crop
    if (both := _sides(size, "shortest_edge", "longest_edge")) is not None:
        return "within", both, crop
    if type(size) is dict and size.keys() == {"shortest_edge"} and _is_side(size["shortest_edge"]):
        return "shorter", (size["shortest_edge"],) * 2, crop
    return f"its size is {size!r:.80}"


def _sides(size: Any, first: str, second: str) -> tuple[int, int] | None:
    """The two sides of a dictionary with these keys alone, or of one number."""
    if type(size) is dict and {name for name, side in size.items() if side is not None} == {first, second}:
        size = size[first], size[second]
    elif _is_side(size):
        size = size, size
    else:
        return None
    return size if all(map(_is_side, size)) else None


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value <= 2**14


def _is_triple(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(type(level) in (int, float) for level in value)
