"""Figures of results: panels of one size in a row, with titles and a legend."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from pvt_jax.errors import UserError

Picture = UInt8[np.ndarray, "h w 3"]

_PAPER, _INK, _EDGE = (255, 255, 255), (40, 40, 40), (150, 150, 150)
_TRACK, _BAR = (240, 240, 240), (150, 200, 240)


def composed(panels: dict[str, Image.Image], entries: list[tuple[str, tuple[int, ...]]]) -> Picture:
    """A figure of ``panels`` by title, in a row, with a legend of ``entries`` (name, colour) below."""
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
        # Column by column, as a list is read.
        x, y = gap + i // rows * column, top + height + gap + i % rows * line
        draw.rectangle((x, y, x + swatch - 1, y + swatch - 1), fill=colour, outline=_EDGE)
        draw.text((x + swatch + gap, y + swatch // 2), name, fill=_INK, font=font, anchor="lm")
    return np.asarray(picture)


def with_scores(picture: Image.Image, scores: list[tuple[str, float]]) -> Picture:
    """A figure of ``picture`` with a line a score (name, 0 … 1) below it, and a bar as long as the score."""
    gap, text = 8, 15
    line, font = text + 9, ImageFont.load_default(text)
    texts = [(name, f"{100 * score:.1f} %") for name, score in scores]
    needed = max([int(font.getlength(name) + font.getlength(share)) + 4 * gap for name, share in texts], default=0)
    width = max(picture.width, needed)
    figure = Image.new("RGB", (width + 2 * gap, picture.height + 3 * gap + len(scores) * line), _PAPER)
    figure.paste(picture, (gap + (width - picture.width) // 2, gap))
    draw = ImageDraw.Draw(figure)
    for i, ((name, share), (_, score)) in enumerate(zip(texts, scores, strict=True)):
        top = picture.height + 2 * gap + i * line
        middle = top + (line - 3) // 2
        draw.rectangle((gap, top, gap + width - 1, top + line - 4), fill=_TRACK)
        if bar := round(score * width):
            draw.rectangle((gap, top, gap + bar - 1, top + line - 4), fill=_BAR)
        draw.text((2 * gap, middle), name, fill=_INK, font=font, anchor="lm")
        draw.text((width, middle), share, fill=_INK, font=font, anchor="rm")
    return np.asarray(figure)


def sheet(pictures: Sequence[tuple[str, Picture]], side: int = 256, columns: int = 4) -> Picture:
    """A figure of ``pictures`` (caption, uint8 [h, w, 3]) in rows, each scaled to fit ``side``."""
    gap, text = 8, 13
    font = ImageFont.load_default(text)
    panels = [fitted(checked(picture), side, Image.Resampling.BOX) for _, picture in pictures]
    width, height = (max([panel.size[axis] for panel in panels], default=side) for axis in (0, 1))
    pitch = (max(width, side // 2) + gap, height + text + 2 * gap)
    columns = max(min(columns, len(panels)), 1)
    rows = -(-len(panels) // columns)
    figure = Image.new("RGB", (columns * pitch[0] + gap, rows * pitch[1] + gap), _PAPER)
    draw = ImageDraw.Draw(figure)
    for number, ((caption, _), panel) in enumerate(zip(pictures, panels, strict=True)):
        left, top = gap + number % columns * pitch[0], gap + number // columns * pitch[1]
        figure.paste(panel, (left, top))
        draw.text((left, top + panel.height + gap // 2), _shortened(caption, font, pitch[0] - gap), _INK, font)
    return np.asarray(figure)


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def fitted(picture: Picture, side: int, shrink: Image.Resampling) -> Image.Image:
    """``picture`` scaled to fit ``side``, keeping its aspect ratio; enlarged by whole factors only, to stay sharp."""
    height, width, _ = picture.shape
    longer = max(height, width)
    if longer <= side:
        factor = side // longer
        return Image.fromarray(picture.repeat(factor, 0).repeat(factor, 1))
    size = (max(round(width * side / longer), 1), max(round(height * side / longer), 1))
    return Image.fromarray(picture).resize(size, shrink)


def checked(image: Picture) -> Picture:
    """``image`` as an array. Raises UserError unless it is uint8 [height, width, 3]."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(f"the image must be uint8 [height, width, 3], but is {image.dtype} {list(image.shape)}")
    return image
