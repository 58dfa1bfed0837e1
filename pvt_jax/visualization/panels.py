"""Figures of results: panels of one size in a row, with titles and a legend."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from pvt_jax.errors import UserError

Picture = UInt8[np.ndarray, "h w 3"]

_PAPER, _INK, _EDGE = (255, 255, 255), (40, 40, 40), (150, 150, 150)


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
