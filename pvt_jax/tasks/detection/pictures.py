"""Pictures of detections: boxes, masks, classes and scores over the image, and beside the ground truth."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer
from PIL import Image, ImageDraw, ImageFont

from pvt_jax.errors import UserError
from pvt_jax.visualization.panels import Picture, checked, composed, fitted

_Colour = tuple[int, int, int]

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_OPACITY = 0.45  # of masks
_LIGHTNESS = (0.299, 0.587, 0.114)  # weights of red, green and blue
_DARKEST = 95  # least lightness of a colour, to be visible over dark images
_CROWD = 20  # more boxes than this get small labels
_HIDDEN = 0.4  # largest fraction of a label that others may cover


@dataclass(frozen=True, eq=False)
class Instances:
    """The n objects of an image, ground truth or prediction.

    Attributes:
      boxes: (x1, y1, x2, y2) in pixels of the image.
      labels: class indices.
      scores: None for ground truth.
      masks: bool [n, h, w] or n of [h, w], each of the image's size.
    """

    boxes: Float[np.ndarray, "n 4"]
    labels: Integer[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"] | None = None
    masks: Sequence[Bool[np.ndarray, "h w"]] | Bool[np.ndarray, "n h w"] | None = None


def draw_detections(
    image: Picture,
    boxes: Float[np.ndarray, "n 4"],
    labels: Integer[np.ndarray, " n"],
    class_names: Sequence[str],
    scores: Float[np.ndarray, " n"] | None = None,
    masks: Sequence[Bool[np.ndarray, "h w"]] | Bool[np.ndarray, "n h w"] | None = None,
    side: int = 640,
    score_threshold: float = 0.3,
) -> Picture:
    """``image`` with boxes, class names, scores and translucent masks, in one colour per class.

    Higher scores are drawn over lower ones; without scores, small boxes over large ones. Raises UserError: an argument
    has another type or shape, or a label has no name.

    Args:
      image: RGB; it is not changed.
      boxes: (x1, y1, x2, y2) in its pixels; boxes that are not finite are left out.
      labels: class indices.
      class_names: of all classes.
      scores: from 0 to 1; None draws all boxes, without scores.
      masks: one per box, of the image's size.
      side: longest side of the picture in pixels; small images are first enlarged by a whole factor, so that lines and
        text are as fine as on large ones.
      score_threshold: minimum score to be drawn.
    """
    found = Instances(boxes, labels, scores, masks)
    image = checked(image)
    _check(found, image, class_names)
    picture = fitted(image, side, Image.Resampling.BOX)
    scale = np.tile(np.divide(picture.size, image.shape[1::-1]), 2)
    line = max(2, round(max(picture.size) / 300))
    order = _order(found, score_threshold)

    if masks is not None:
        pixels = np.array(picture)
        for i in order:
            _paint_mask(pixels, masks[i], colour_of_class(int(labels[i])), line)
        picture = Image.fromarray(pixels)

    draw = ImageDraw.Draw(picture)
    corners = [_corners(boxes[i] * scale, picture.size) for i in order]
    for i, box in zip(order, corners, strict=True):
        _draw_box(draw, box, colour_of_class(int(labels[i])), line)
    texts = [_text(class_names[int(labels[i])], None if scores is None else scores[i]) for i in order]
    _draw_labels(draw, picture.size, corners, texts, [colour_of_class(int(labels[i])) for i in order])
    return np.asarray(picture)


def side_by_side(
    image: Picture,
    truth: Instances | None,
    prediction: Instances,
    class_names: Sequence[str],
    side: int = 512,
    score_threshold: float = 0.3,
) -> Picture:
    """Ground truth and prediction side by side, with a legend of the classes shown.

    A ``truth`` of None leaves its panel out. ``side`` is the longest side of a panel in pixels; other arguments, and
    errors, are those of ``draw_detections``.
    """
    shown = _order(prediction, score_threshold)
    title = "prediction" if shown or not len(prediction.labels) else f"prediction: no score of {score_threshold:g}"
    panels, classes = {}, set()
    for name, found in {"truth": truth, title: prediction}.items():
        if found is not None:
            drawn = draw_detections(
                image, found.boxes, found.labels, class_names, found.scores, found.masks, side, score_threshold
            )
            panels[name] = Image.fromarray(drawn)
            classes |= {int(found.labels[i]) for i in _order(found, score_threshold)}
    return composed(panels, [(str(class_names[k]), colour_of_class(k)) for k in sorted(classes)])


def colour_of_class(number: int) -> _Colour:
    """A bright RGB colour that depends on the class index alone; neighbouring indices differ most."""
    # Golden ratio steps never repeat a hue; saturation and brightness separate those that come close.
    hue = (0.58 + number * 0.618034) % 1.0
    saturation, value = ((0.85, 1.0), (0.5, 1.0), (0.95, 0.78))[number % 3]
    colour = 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))
    lightness = colour @ _LIGHTNESS
    if lightness < _DARKEST:
        colour += (255 - colour) * (_DARKEST - lightness) / (255 - lightness)
    red, green, blue = np.round(colour).astype(int).tolist()
    return red, green, blue


def _order(found: Instances, score_threshold: float) -> list[int]:
    """Indices of the objects to draw, from bottom to top; boxes that are not finite are left out."""
    drawn = np.asarray(np.isfinite(found.boxes).all(-1))
    if found.scores is None:
        order = np.argsort(-(found.boxes[:, 2:] - found.boxes[:, :2]).prod(-1), kind="stable")
    else:
        # Reversed, so that of equal scores the first is drawn last, on top.
        order = np.argsort(-found.scores, kind="stable")[::-1]
        drawn &= found.scores >= score_threshold
    return [i for i in order.tolist() if drawn[i]]


def _corners(box: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last pixels (left, top, right, bottom) of a box, within the picture."""
    left, top = (int(np.clip(np.floor(box[i]), 0, size[i] - 1)) for i in (0, 1))
    right, bottom = (int(np.clip(np.ceil(box[2 + i]) - 1, start, size[i] - 1)) for i, start in enumerate((left, top)))
    return left, top, right, bottom


def _draw_box(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colour: _Colour, line: int) -> None:
    left, top, right, bottom = box
    # With a dark edge, to be visible on any background.
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_BLACK)
    draw.rectangle(box, outline=colour, width=line)


def _paint_mask(pixels: np.ndarray, mask: np.ndarray, colour: _Colour, line: int) -> None:
    """Draw a mask in place, translucent inside and opaque along its outline."""
    height, width, _ = pixels.shape
    enlarged = width >= mask.shape[1]
    whole = Image.fromarray(np.asarray(mask, np.uint8) * 255)
    resampling = Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX
    mask = np.asarray(whole.resize((width, height), resampling)) >= 128
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not rows.size:
        return
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    mask, below = mask[part], pixels[part]
    inside = np.pad(mask, line)
    for _ in range(line):
        shrunk = inside.copy()
        shrunk[1:-1, 1:-1] &= inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        inside = shrunk
    inside = inside[line:-line, line:-line]
    mixed = np.round((1 - _OPACITY) * below + _OPACITY * np.array(colour)).astype(np.uint8)
    below[inside] = mixed[inside]
    below[mask & ~inside] = colour


def _text(name: str, score: float | None) -> str:
    return str(name) if score is None else f"{name} {score:.2f}"


def _draw_labels(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    boxes: list[tuple[int, int, int, int]],
    texts: list[str],
    colours: list[_Colour],
) -> None:
    """Write each text on its colour at the corner of its box where it overlaps others least.

    Texts that would be largely covered are left out.
    """
    font = ImageFont.load_default(min(max(round(max(size) / (42 if len(boxes) <= _CROWD else 54)), 11), 24))
    height, pad = int(font.getbbox("Äg")[3]) + 2, 3
    places = np.zeros((0, 4))
    drawn = []
    # The highest score chooses first, and is drawn last.
    for (left, top, right, bottom), text, colour in reversed(list(zip(boxes, texts, colours, strict=True))):
        while len(text) > 1 and font.getlength(text) + 2 * pad > size[0]:
            text = text[:-2] + "…"
        width = int(font.getlength(text)) + 2 * pad
        corners = [
            (x, y)
            for y in (top - height, bottom + 1, top, bottom + 1 - height)
            for x in (left, right + 1 - width)
            if 0 <= y <= size[1] - height
        ] or [(left, top)]
        starts = np.clip(corners, 0, np.maximum(np.subtract(size, (width, height)), 0))
        areas = np.concatenate([starts, starts + (width, height)], axis=1)
        covered = np.minimum(areas[:, None, 2:], places[:, 2:]) - np.maximum(areas[:, None, :2], places[:, :2])
        hidden = np.maximum(covered, 0).prod(-1).sum(1)
        if hidden.min() <= _HIDDEN * width * height:
            best = areas[hidden.argmin()]
            places = np.concatenate([places, best[None]])
            drawn.append((best.tolist(), text, colour))
    for (left, top, right, bottom), text, colour in reversed(drawn):
        draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)
        dark = np.dot(colour, _LIGHTNESS) < 130
        draw.text((left + pad, top), text, fill=_WHITE if dark else _BLACK, font=font)


def _check(found: Instances, image: Picture, class_names: Sequence[str]) -> None:
    count = len(found.labels)
    if np.shape(found.boxes) != (count, 4):
        raise UserError(f"boxes must be [{count}, 4] for {count} labels, but are {list(np.shape(found.boxes))}")
    for what, values in (("scores", found.scores), ("masks", found.masks)):
        if values is not None and len(values) != count:
            raise UserError(f"there are {len(values)} {what} for {count} labels: give as many of each")
    unknown = [int(label) for label in found.labels if not 0 <= label < len(class_names)]
    if unknown:
        raise UserError(f"class {unknown[0]} has no name: there are {len(class_names)} class names")
    for mask in () if found.masks is None else found.masks:
        if mask.shape != image.shape[:2]:
            sizes = [" × ".join(map(str, shape)) for shape in (mask.shape, image.shape[:2])]
            raise UserError(
                f"a mask of {sizes[0]} pixels cannot be drawn over an image of {sizes[1]}: give equal sizes"
            )
