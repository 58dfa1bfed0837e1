"""Label maps as pictures: in colours, over the image, and beside the truth with a legend."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from pvt_jax.errors import UserError

_Picture = UInt8[np.ndarray, "h w 3"]
_Labels = Integer[np.ndarray, "h w"]
_Palette = UInt8[np.ndarray, "k 3"]

_IGNORE = 255
_PAPER, _INK, _EDGE = (255, 255, 255), (40, 40, 40), (150, 150, 150)


def colour_labels(labels: _Labels, palette: _Palette, ignored: Sequence[int] = (0, 0, 0)) -> _Picture:
    """The colour of each pixel's class; what has none (255, not counted) is ``ignored``.

    Raises:
      UserError: an argument has another type or shape.
    """
    labels, palette = np.asarray(labels), np.asarray(palette)
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"labels must be integers [height, width], but are {labels.dtype} {list(labels.shape)}")
    if palette.dtype != np.uint8 or palette.ndim != 2 or palette.shape[1] != 3:
        raise UserError(f"the palette must be uint8 [classes, 3], but is {palette.dtype} {list(palette.shape)}")
    known = (labels >= 0) & (labels < len(palette))
    table = np.concatenate([palette, np.array([ignored], np.uint8)])
    return table[np.where(known, labels, len(palette))]


def overlay(image: _Picture, labels: _Labels, palette: _Palette, opacity: float = 0.5) -> _Picture:
    """``image`` with the colours of ``labels`` laid over it; where no class is, the image itself.

    Args:
      image: RGB; it is not changed.
      labels: of the same size.
      palette: RGB of each class.
      opacity: share of the colours, from 0 to 1; the rest is the image.

    Raises:
      UserError: an argument has another type, shape or range.
    """
    image, labels = _checked(image), np.asarray(labels)
    if not 0 <= opacity <= 1:
        raise UserError(f"the opacity must be from 0 to 1, but is {opacity}")
    colours = colour_labels(labels, palette)
    _check_size("labels", labels, image)
    mixed = np.round((1.0 - opacity) * image + opacity * colours).astype(np.uint8)
    return np.where(((labels >= 0) & (labels < len(palette)))[..., None], mixed, image)


def side_by_side(
    image: _Picture,
    truth: _Labels | None,
    prediction: _Labels,
    palette: _Palette,
    class_names: Sequence[str],
    side: int = 384,
) -> _Picture:
    """Image, truth and prediction next to each other, titled; below, the colours of the classes that they show.

    Args:
      image: RGB.
      truth: of the same size; None leaves its panel out.
      prediction: of the same size.
      palette: RGB of each class.
      class_names: of each class.
      side: pixels that the longer side of a panel has at most; small images are enlarged by a whole number.

    Raises:
      UserError: an argument has another type or shape, or class names and palette are not equally many.
    """
    image = _checked(image)
    if len(class_names) != len(palette):
        raise UserError(
            f"there are {len(class_names)} class names, but {len(palette)} colours: give one of each a class"
        )
    maps = {"truth": truth, "prediction": prediction} if truth is not None else {"prediction": prediction}
    panels = {"image": _fitted(image, side, Image.Resampling.BOX)}
    for title, labels in maps.items():
        coloured = colour_labels(labels, palette)
        _check_size(title, labels, image)
        panels[title] = _fitted(coloured, side, Image.Resampling.NEAREST)

    shown = np.unique(np.concatenate([np.ravel(labels) for labels in maps.values()]))
    entries = [(str(class_names[k]), tuple(palette[k].tolist())) for k in shown if 0 <= k < len(palette)]
    if truth is not None and (np.asarray(truth) == _IGNORE).any():
        entries.append(("not counted", (0, 0, 0)))
    return _composed(panels, entries)


def _composed(panels: dict[str, Image.Image], entries: list[tuple[str, tuple[int, ...]]]) -> _Picture:
    """Panels in a row with their titles above, and a legend below in columns of one width."""
    width, height = next(iter(panels.values())).size
    gap, text = 8, 15
    line = text + 7
    font = ImageFont.load_default(text)
    title_width = max(int(font.getlength(title)) for title in panels)
    pitch = max(width, title_width) + gap
    total = len(panels) * pitch + gap

    swatch = text
    column = max([int(font.getlength(name)) for name, _ in entries], default=0) + swatch + 3 * gap
    total = max(total, column + gap)
    columns = max((total - gap) // column, 1)
    rows = -(-len(entries) // columns)
    top = gap + line
    picture = Image.new("RGB", (total, top + height + gap + rows * line + (gap if rows else 0)), _PAPER)
    draw = ImageDraw.Draw(picture)
    for i, (title, panel) in enumerate(panels.items()):
        draw.text((gap + i * pitch, gap + text // 2), title, fill=_INK, font=font, anchor="lm")
        picture.paste(panel, (gap + i * pitch, top))
    for i, (name, colour) in enumerate(entries):
        # Down the columns, as a list is read.
        x, y = gap + i // rows * column, top + height + gap + i % rows * line
        draw.rectangle((x, y, x + swatch - 1, y + swatch - 1), fill=colour, outline=_EDGE)
        draw.text((x + swatch + gap, y + swatch // 2), name, fill=_INK, font=font, anchor="lm")
    return np.asarray(picture)


def _fitted(picture: _Picture, side: int, shrink: Image.Resampling) -> Image.Image:
    """As large as ``side`` allows, in the same proportions; only whole numbers enlarge, so that pixels stay equal."""
    height, width, _ = picture.shape
    longer = max(height, width)
    if longer <= side:
        factor = side // longer
        return Image.fromarray(picture.repeat(factor, 0).repeat(factor, 1))
    size = (max(round(width * side / longer), 1), max(round(height * side / longer), 1))
    return Image.fromarray(picture).resize(size, shrink)


def _checked(image: _Picture) -> _Picture:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(f"the image must be uint8 [height, width, 3], but is {image.dtype} {list(image.shape)}")
    return image


def _check_size(what: str, labels: _Labels, image: _Picture) -> None:
    if np.shape(labels) != image.shape[:2]:
        sizes = [" × ".join(map(str, shape)) for shape in (np.shape(labels), image.shape[:2])]
        raise UserError(
            f"the {what} of {sizes[0]} pixels cannot be drawn beside an image of {sizes[1]}: give equal sizes"
        )
