"""Notes on images that are read, but perhaps not as a person expects."""

from collections.abc import Sequence

from pvt_jax.errors import UserError
from pvt_jax.files.images import Traits
from pvt_jax.files.values import Range, Spread

# Floats further beyond 0 … 1 were not in it before they were rounded or resized.
_TOLERANCE = 0.1


def describe_values(split: str, traits: Sequence[Traits], tried: int, value_range: Range) -> list[str]:
    """Notes on how values of more than 8 bits are read; raises UserError where their range has to be asked for."""
    spreads = [trait.spread for trait in traits if trait.spread]
    return [
        _describe_kind(split, [spread for spread in spreads if spread.kind == kind], tried, value_range)
        for kind in sorted({spread.kind for spread in spreads})
    ]


def describe_layers(traits: Sequence[Traits], tried: int) -> list[str]:
    """Notes on transparent pixels, and on all but the first of several frames."""
    notes = []
    if transparent := sum(trait.is_transparent for trait in traits):
        notes.append(f"{_of(transparent, tried, 'probed')} transparent pixels: the colours beneath are read")
    if frames := sum(trait.has_frames for trait in traits):
        notes.append(f"{_of(frames, tried, 'probed')} several frames or pages: the first is read")
    return notes


def describe_orientations(turned: int, tried: int | None, labels: str, upright: bool) -> list[str]:
    """A note on images with an EXIF orientation, where there are any; ``tried`` is None if all were looked at.

    ``labels`` have to fit the images, if it is not "".
    """
    if not turned:
        return []
    images = f"{turned:,} image{'s have' if turned != 1 else ' has'}" if tried is None else _of(turned, tried, "probed")
    note = f"{images} an EXIF orientation, which is {'' if upright else 'not '}applied"
    if labels:
        note += f": {labels} must be those of the image {'turned upright' if upright else 'as it is stored'}"
        note += f", or set data.exif_orientation={not upright}"
    return [note]


def way_to_turn(labels: str, upright: bool) -> str:
    """What to do where ``labels`` have the size of the image as it is not read: stored, or turned upright."""
    view = "as it is stored" if upright else "turned upright by its EXIF orientation"
    return f"the {labels} fit the image {view}: if all do, set --config.data.exif_orientation={not upright}"


def _describe_kind(split: str, spreads: Sequence[Spread], tried: int, value_range: Range) -> str:
    spread = Spread.over(spreads)
    lowest, highest = spread.lowest, spread.highest
    is_float, is_given = isinstance(highest, float), any(value_range)
    is_beyond = is_float and not (lowest >= -_TOLERANCE and highest <= 1 + _TOLERANCE)
    if not is_given and (spread.full is None or is_beyond):
        raise UserError(
            f"{_of(len(spreads), tried, f'{split}')} {spread.kind}, {lowest:,} … {highest:,}, and nothing says which "
            f"values are black and white: set --config.data.value_range='({lowest:g},{highest:g})'"
        )
    black, white = value_range if is_given or spread.full is None else spread.full
    first, last = spread.steps(black, white)
    note = (
        f"{_of(len(spreads), tried, 'probed')} {spread.kind}: their values {lowest:,} … {highest:,} of {black:,} … "
        f"{white:,} are read as {first} … {last} of 255"
    )
    if is_given or last >= 128:
        return f"{note} (data.value_range)"
    likely = highest if is_float else (1 << max(8, int(highest).bit_length())) - 1
    return f"{note}: if {likely:,} is white, set --config.data.value_range='(0,{likely})'"


def _of(count: int, tried: int, which: str) -> str:
    return f"{count:,} of {tried:,} {which} images {'have' if count != 1 else 'has'}"
