"""Pictures of label maps: in colours, over the image, and beside the ground truth with a legend."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from pvt_jax.errors import UserError
from pvt_jax.visualization.panels import Picture, checked, composed, fitted

_Labels = Integer[np.ndarray, "h w"]
_Palette = UInt8[np.ndarray, "k 3"]

_IGNORE = 255


def colour_labels(labels: _Labels, palette: _Palette, ignored: Sequence[int] = (0, 0, 0)) -> Picture:
    """Each pixel in the colour of its class, or in ``ignored`` if it has none (255).

    Raises UserError: an argument has another type or shape.
    """
    labels, palette = np.asarray(labels), np.asarray(palette)
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"labels must be integers [height, width], but are {labels.dtype} {list(labels.shape)}")
    if palette.dtype != np.uint8 or palette.ndim != 2 or palette.shape[1] != 3:
        raise UserError(f"the palette must be uint8 [classes, 3], but is {palette.dtype} {list(palette.shape)}")
    known = (labels >= 0) & (labels < len(palette))
    table = np.concatenate([palette, np.array([ignored], np.uint8)])
    return table[np.where(known, labels, len(palette))]


def overlay(image: Picture, labels: _Labels, palette: _Palette, opacity: float = 0.5) -> Picture:
    """``image`` with the colours of ``labels``, of the same size, over it; ignored pixels show the image.

    ``image`` is RGB and not changed, ``palette`` has RGB of each class, and the colours' ``opacity`` is from 0 to 1.
    Raises UserError: an argument has another type, shape or range.
    """
    image, labels = checked(image), np.asarray(labels)
    if not 0 <= opacity <= 1:
        raise UserError(f"the opacity must be from 0 to 1, but is {opacity}")
    colours = colour_labels(labels, palette)
    _check_size("labels", labels, image)
    mixed = np.round((1.0 - opacity) * image + opacity * colours).astype(np.uint8)
    return np.where(((labels >= 0) & (labels < len(palette)))[..., None], mixed, image)


def side_by_side(
    image: Picture,
    truth: _Labels | None,
    prediction: _Labels,
    palette: _Palette,
    class_names: Sequence[str],
    side: int = 384,
) -> Picture:
    """Image, ground truth and prediction side by side, with a legend of the classes shown.

    All have one size; a ``truth`` of None leaves its panel out. ``side`` is the longest side of a panel in pixels;
    small images are enlarged by a whole factor. Each class has RGB in ``palette`` and a name in ``class_names``. Raises
    UserError: an argument has another type or shape, or class names and palette differ in length.
    """
    image = checked(image)
    if len(class_names) != len(palette):
        raise UserError(
            f"there are {len(class_names)} class names, but {len(palette)} colours: give one of each per class"
        )
    maps = {"truth": truth, "prediction": prediction} if truth is not None else {"prediction": prediction}
    panels = {"image": fitted(image, side, Image.Resampling.BOX)}
    for title, labels in maps.items():
        coloured = colour_labels(labels, palette)
        _check_size(title, labels, image)
        panels[title] = fitted(coloured, side, Image.Resampling.NEAREST)

    entries = _entries(np.concatenate([np.ravel(labels) for labels in maps.values()]), palette, class_names)
    if truth is not None and (np.asarray(truth) == _IGNORE).any():
        entries.append(("not counted", (0, 0, 0)))
    return composed(panels, entries)


def beside_overlay(
    image: Picture, labels: _Labels, palette: _Palette, class_names: Sequence[str], side: int = 512
) -> Picture:
    """The image, and beside it the colours of ``labels`` over it, with a legend of the classes shown.

    Arguments and errors are those of ``overlay`` and ``side_by_side``.
    """
    panels = {"image": checked(image), "prediction": overlay(image, labels, palette)}
    fitting = {title: fitted(panel, side, Image.Resampling.BOX) for title, panel in panels.items()}
    return composed(fitting, _entries(labels, palette, class_names))


def _entries(labels: np.ndarray, palette: _Palette, class_names: Sequence[str]) -> list[tuple[str, tuple[int, ...]]]:
    """Name and colour of each class in ``labels``."""
    return [(str(class_names[k]), tuple(palette[k].tolist())) for k in np.unique(labels) if 0 <= k < len(palette)]


def _check_size(what: str, labels: _Labels, image: Picture) -> None:
    if np.shape(labels) != image.shape[:2]:
        sizes = [" × ".join(map(str, shape)) for shape in (np.shape(labels), image.shape[:2])]
        raise UserError(
            f"the {what} of {sizes[0]} pixels cannot be drawn beside an image of {sizes[1]}: give equal sizes"
        )
