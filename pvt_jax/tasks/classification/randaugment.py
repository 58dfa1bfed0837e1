"""RandAugment (arXiv 1909.13719) in timm's form, with which DeiT and PVT train on ImageNet.

Every operation gives timm's pixels, and one generator drives all choices. Unlike in the paper, each drawn operation is
applied with a probability, the magnitude is noisy, and translation is relative to the image's side.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from pvt_jax.errors import UserError
from pvt_jax.tasks.classification import shifts
from pvt_jax.tasks.images import INTERPOLATIONS, Fill

# (image RGB, magnitude, fill, resampling filter) → image RGB of the same size.
Operation = Callable[[Image.Image, float, Fill, Image.Resampling], Image.Image]

MAX_MAGNITUDE = 10.0
IMAGENET_MEAN: Fill = (124, 116, 104)


def _affine(image: Image.Image, matrix: tuple[float, ...], fill: Fill, resampling: Image.Resampling) -> Image.Image:
    if resampling == Image.Resampling.BICUBIC and (moved := shifts.moved(image, matrix, fill)) is not None:
        return moved
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resampling, fillcolor=fill)


def _rotate(image: Image.Image, magnitude: float, fill: Fill, resampling: Image.Resampling) -> Image.Image:
    return image.rotate(magnitude / MAX_MAGNITUDE * 30.0, resampling, fillcolor=fill)


def _shear_x(image: Image.Image, magnitude: float, fill: Fill, resampling: Image.Resampling) -> Image.Image:
    return _affine(image, (1, magnitude / MAX_MAGNITUDE * 0.3, 0, 0, 1, 0), fill, resampling)


def _shear_y(image: Image.Image, magnitude: float, fill: Fill, resampling: Image.Resampling) -> Image.Image:
    return _affine(image, (1, 0, 0, magnitude / MAX_MAGNITUDE * 0.3, 1, 0), fill, resampling)


def _translate_x(image: Image.Image, magnitude: float, fill: Fill, resampling: Image.Resampling) -> Image.Image:
    return _affine(image, (1, 0, magnitude / MAX_MAGNITUDE * 0.45 * image.width, 0, 1, 0), fill, resampling)


def _translate_y(image: Image.Image, magnitude: float, fill: Fill, resampling: Image.Resampling) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, magnitude / MAX_MAGNITUDE * 0.45 * image.height), fill, resampling)


def _auto_contrast(image: Image.Image, *_: object) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, *_: object) -> Image.Image:
    return ImageOps.equalize(image)


def _invert(image: Image.Image, *_: object) -> Image.Image:
    return ImageOps.invert(image)


def _posterize(image: Image.Image, magnitude: float, *_: object, increasing: bool) -> Image.Image:
    kept_bits = int(magnitude / MAX_MAGNITUDE * 4)
    if increasing:
        kept_bits = 4 - kept_bits
    if kept_bits == 0:  # Pillow 13 raises here; earlier versions gave black.
        return Image.new(image.mode, image.size)
    return ImageOps.posterize(image, kept_bits)


def _solarize(image: Image.Image, magnitude: float, *_: object, increasing: bool) -> Image.Image:
    threshold = int(magnitude / MAX_MAGNITUDE * 256)
    return ImageOps.solarize(image, 256 - threshold if increasing else threshold)


def _solarize_add(image: Image.Image, magnitude: float, *_: object) -> Image.Image:
    added = int(magnitude / MAX_MAGNITUDE * 110)
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def _color(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Color(image).enhance(factor)


def _contrast(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(factor)


def _brightness(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


def _sharpness(image: Image.Image, factor: float) -> Image.Image:
    # Pillow's ImageFilter.SMOOTH in a fifth of the time; rounding agrees, as no multiple of 1/13 is near a half.
    pixels = np.asarray(image)
    smooth = cv2.filter2D(pixels, -1, np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13)
    for border in np.s_[:1], np.s_[-1:], np.s_[:, :1], np.s_[:, -1:]:
        smooth[border] = pixels[border]
    return Image.blend(Image.fromarray(smooth), image, factor)


def _enhance(
    image: Image.Image,
    magnitude: float,
    *_: object,
    enhance: Callable[[Image.Image, float], Image.Image],
    increasing: bool,
) -> Image.Image:
    """Blend with a degenerate image. Factor 1 is the identity; if "increasing", stronger means farther from it."""
    if increasing:
        return enhance(image, 1.0 + magnitude / MAX_MAGNITUDE * 0.9)
    return enhance(image, magnitude / MAX_MAGNITUDE * 1.8 + 0.1)


# By timm's names. Magnitudes are in 0..10; those of operations in SIGNED may be negative, for the opposite direction.
OPERATIONS: dict[str, Operation] = {
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Rotate": _rotate,
    "Posterize": partial(_posterize, increasing=False),
    "PosterizeIncreasing": partial(_posterize, increasing=True),
    "Solarize": partial(_solarize, increasing=False),
    "SolarizeIncreasing": partial(_solarize, increasing=True),
    "SolarizeAdd": _solarize_add,
    "Color": partial(_enhance, enhance=_color, increasing=False),
    "ColorIncreasing": partial(_enhance, enhance=_color, increasing=True),
    "Contrast": partial(_enhance, enhance=_contrast, increasing=False),
    "ContrastIncreasing": partial(_enhance, enhance=_contrast, increasing=True),
    "Brightness": partial(_enhance, enhance=_brightness, increasing=False),
    "BrightnessIncreasing": partial(_enhance, enhance=_brightness, increasing=True),
    "Sharpness": partial(_enhance, enhance=_sharpness, increasing=False),
    "SharpnessIncreasing": partial(_enhance, enhance=_sharpness, increasing=True),
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateXRel": _translate_x,
    "TranslateYRel": _translate_y,
}
INCREASING = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd",
    "ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing",
    "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
)  # fmt: skip
# timm's set without "inc1": six of the fifteen do not get stronger with the magnitude.
NOT_INCREASING = tuple(name.removesuffix("Increasing") for name in INCREASING)
SIGNED = frozenset(
    ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
    + ("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing")
)


@dataclass(frozen=True)
class RandAugment:
    """Applies ``num_ops`` operations drawn with replacement, each with ``probability``; the defaults are PVT's recipe.

    Raises UserError: a value is out of range or unknown.

    Attributes:
      num_ops: operations drawn per image.
      magnitude: mean magnitude, 0..10.
      magnitude_std: standard deviation of the magnitude, clipped to 0..10; infinity: uniform in 0..magnitude.
      probability: of applying a drawn operation.
      increasing: whether all operations get stronger with the magnitude (timm's "inc1").
      fill: RGB in 0..255 of pixels that geometric operations uncover; timm's is the rounded mean of the data set.
      interpolation: "bicubic" or "bilinear", for geometric operations.
    """

    num_ops: int = 2
    magnitude: float = 9.0
    magnitude_std: float = 0.5
    probability: float = 0.5
    increasing: bool = True
    fill: Fill = IMAGENET_MEAN
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        checks = (
            (self.num_ops >= 1, "num_ops must be 1 or more", self.num_ops),
            (0 <= self.magnitude <= MAX_MAGNITUDE, "the magnitude must be in 0..10", self.magnitude),
            (self.magnitude_std >= 0, "magnitude_std must be 0 or more", self.magnitude_std),
            (0 <= self.probability <= 1, "the probability must be in 0..1", self.probability),
            (self.interpolation in INTERPOLATIONS, f"choose one of {sorted(INTERPOLATIONS)}", self.interpolation),
        )
        for holds, rule, value in checks:
            if not holds:
                raise UserError(f"RandAugment: {rule}, not {value!r}")

    @classmethod
    def parse(cls, policy: str, *, fill: Fill = IMAGENET_MEAN, interpolation: str = "bicubic") -> "RandAugment":
        """A policy in timm's notation, such as "rand-m9-mstd0.5-inc1".

        After "rand", in any order: m (magnitude, default 10), n (operations, 2), p (probability, 0.5), mstd (standard
        deviation of the magnitude, 0; above 100 uniform in 0..m), inc (0 or 1, 0). timm's mmax, t and w are errors.
        Raises UserError: the string is malformed, or a value is out of range.
        """
        kind, *options = policy.split("-")
        values = {"m": 10.0, "n": 2.0, "p": 0.5, "mstd": 0.0, "inc": 0.0}
        seen = set()
        for option in options:
            match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", option)
            key = match[1] if match else ""
            if match is None or key not in values or key in seen:
                raise UserError(f"policy {policy!r}: {option!r} is unknown or repeated; options are m, n, p, mstd, inc")
            seen.add(key)
            values[key] = float(match[2])
        if kind != "rand" or values["n"] % 1 or values["inc"] not in (0, 1):
            raise UserError(f'policy {policy!r} must start with "rand", have an integer n, and inc 0 or 1')
        return cls(
            num_ops=int(values["n"]),
            magnitude=values["m"],
            magnitude_std=math.inf if values["mstd"] > 100 else values["mstd"],
            probability=values["p"],
            increasing=bool(values["inc"]),
            fill=fill,
            interpolation=interpolation,
        )

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """An augmented RGB image of the same size, determined by the state of ``rng``; ``image`` is not changed."""
        names = INCREASING if self.increasing else NOT_INCREASING
        # Draws are in timm's order, so that one stream of numbers can drive both.
        for choice in rng.integers(len(names), size=self.num_ops):
            if self.probability < 1 and rng.random() > self.probability:
                continue
            name = names[choice]
            magnitude = self._draw_magnitude(rng)
            if name in SIGNED and rng.random() > 0.5:
                magnitude = -magnitude
            image = OPERATIONS[name](image, magnitude, self.fill, INTERPOLATIONS[self.interpolation])
        return image

    def _draw_magnitude(self, rng: np.random.Generator) -> float:
        if self.magnitude_std == math.inf:
            return rng.uniform(0, self.magnitude)
        if self.magnitude_std > 0:
            return min(max(rng.normal(self.magnitude, self.magnitude_std), 0.0), MAX_MAGNITUDE)
        return self.magnitude
