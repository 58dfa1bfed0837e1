"""Checks images and their objects before the first step. What annotations say was checked when they were opened."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from pvt_jax.data.headers import THREADS, size_and_orientation
from pvt_jax.data.images import check_source_array
from pvt_jax.data.records import DetectionSource, HasFiles
from pvt_jax.data.text import escaped_name, listed
from pvt_jax.errors import CorruptImageError, UserError
from pvt_jax.tasks.checks import check_halves

_PROBES = 32
# Classes that are said by name.
_NAMED = 10
_SECONDS_BETWEEN_REPORTS = 10


def validate_detection(
    train: DetectionSource,
    evaluation: DetectionSource,
    num_classes: int,
    *,
    needs_masks: bool,
    decode: Callable[[bytes, str], object],
    on_corrupt: str = "error",
    check: str = "all",
    progress: Callable[[str], None] | None = None,
) -> str:
    """Checks both halves of a detection data set.

    Args:
        train, evaluation: the two halves, as ``open_detection_source`` returns them.
        num_classes: number of classes that the model detects.
        needs_masks: whether the model learns masks.
        decode: called with an encoded image and its name, for 32 images of each half; raises CorruptImageError.
        on_corrupt: "error" refuses a data set in which an image cannot be decoded, "skip" one in which none can.
        check: "all" compares the size of every image with what its annotation says, from the headers of the files,
            "sample" that of 32 images of each half. The masks of those are decoded in either case.
        progress: called with a line now and then, when it takes long.

    Returns:
        One line for the log: how many images and objects of how many classes, from where, and what was done to them.

    Raises:
        UserError: what is wrong, where, how often, and what to do about it.
    """
    halves: dict[str, Any] = {"training": train, "evaluation": evaluation}
    check_halves(halves, num_classes, on_corrupt, check)
    count = len(train.class_names)
    notes = []
    for half, source in halves.items():
        if needs_masks:
            _check_have_masks(half, source)
        found = [*source.notes(), *_check_half(half, source, needs_masks, decode, on_corrupt, check, progress)]
        notes += [f"{half}: {', '.join(found)}"] * bool(found)
    if both := _in_both(train, evaluation):
        notes.append(f"{both:,} image{'s' * (both != 1)} of the evaluation are trained on, too")
    names = listed([escaped_name(name) for name in train.class_names], _NAMED)
    return (
        f"{len(train):,} training and {len(evaluation):,} evaluation images with objects of {count:,} "
        f"class{'es' * (count != 1)} ({names}), from {train}{''.join(f'; {note}' for note in notes)}"
    )


def _check_have_masks(half: str, source: DetectionSource) -> None:
    way_out = "train a head without masks, such as --config.head.name=faster_rcnn"
    if not source.has_masks:
        raise UserError(f"the head learns masks, and no {half} object has one ({source}): annotate them, or {way_out}")
    if without := source.without_masks():
        raise UserError(
            f"the head learns masks, and {without:,} {half} objects have none ({source}): annotate these as polygons, "
            f"remove them, or {way_out}"
        )


def _check_half(
    half: str,
    source: DetectionSource,
    needs_masks: bool,
    decode: Callable[[bytes, str], object],
    on_corrupt: str,
    check: str,
    progress: Callable[[str], None] | None,
) -> list[str]:
    """Checks one half; returns what is worth a note."""
    sizes, count = source.sizes(), len(source)
    probes = np.unique(np.linspace(0, count - 1, min(_PROBES, count)).astype(np.int64)).tolist()
    chosen = range(count) if check == "all" else probes
    no_images = set(np.flatnonzero(~np.all(sizes, axis=1)).tolist())
    others, notes = _check_sizes(half, source, chosen, progress)
    no_images |= others
    with ThreadPoolExecutor(THREADS) as pool:
        images = list(pool.map(lambda index: _probe(source, index, decode), sorted({*probes, *no_images})))
    if not any(len(source.objects(index)) for index in probes) and not source.counts().any():
        raise UserError(f"no {half} image has an object ({source}): annotate some, or choose another split")
    if needs_masks:
        notes += _check_masks(half, source, probes)
    corrupt = [error for error in images if error]
    if not corrupt:
        return notes
    if len(corrupt) == len(images):
        raise UserError(
            f"none of the {len(images):,} {half} images tried can be decoded: the data set as a whole looks "
            f"unreadable, fetch or unpack it again; the first: {corrupt[0]}"
        )
    if on_corrupt == "error":
        raise UserError(
            f"{len(corrupt):,} {half} images cannot be decoded: repair or remove them, or skip them with "
            f"--config.data.on_corrupt=skip; the first: {corrupt[0]}"
        ) from corrupt[0]
    return [*notes, f"{len(corrupt):,} images cannot be decoded and are skipped"]


def _check_sizes(
    half: str, source: DetectionSource, chosen: range | list[int], progress: Callable[[str], None] | None
) -> tuple[set[int], list[str]]:
    """Compares the sizes of files with those of the annotations.

    Returns the numbers of files that are no images, and what is worth a note.
    """
    if not isinstance(source, HasFiles):
        return set(), []
    sizes = source.sizes()
    no_images, wrong, oriented, reported = set(), [], 0, time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        headers = pool.map(lambda index: size_and_orientation(source.path(index)), chosen)
        for done, (index, (header, orientation)) in enumerate(zip(chosen, headers, strict=True)):
            oriented += orientation > 1
            if not all(header):
                no_images.add(index)
            elif header != tuple(sizes[index].tolist()):
                wrong.append((index, header, orientation))
            if progress and time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
                reported = time.monotonic()
                progress(f"checked the size of {done + 1:,} of {len(chosen):,} {half} images")
    if wrong:
        index, (height, width), orientation = wrong[0]
        said_height, said_width = sizes[index].tolist()
        turned = (height, width) == (said_width, said_height)
        way_out = "annotate these files, or correct the annotations"
        if turned and orientation > 1:
            way_out = "turn them as their EXIF orientation says and save them so, such as with mogrify -auto-orient"
        elif turned:
            way_out = "exchange height and width in the annotations, or annotate these files"
        raise UserError(
            f"{len(wrong):,} of {len(chosen):,} {half} images have another size than their annotations say, the first "
            f"is {source.name(index)}, {height}×{width} and not {said_height}×{said_width} (height × width): {way_out}"
        )
    if not oriented:
        return no_images, []
    what = f"{oriented:,} image{'s have' if oriented != 1 else ' has'} an EXIF orientation, which is not applied"
    return no_images, [f"{what}: boxes must be those of the image as it is stored"]


def _probe(source: DetectionSource, index: int, decode: Callable[[bytes, str], object]) -> CorruptImageError | None:
    image, name = source.image(index), source.name(index)
    if not isinstance(image, bytes):
        check_source_array(image, name)
        return None
    try:
        decode(image, name)
    except CorruptImageError as error:
        return error
    return None


def _check_masks(half: str, source: DetectionSource, probes: list[int]) -> list[str]:
    """Decodes masks; returns what is worth a note. Raises UserError where most are elsewhere than their boxes."""
    tried, elsewhere = 0, []
    for index in probes:
        objects = source.objects(index)
        objects = objects.take(~objects.crowd)
        for box, mask in zip(objects.boxes, source.masks(index, objects), strict=True):
            left, top = np.floor(box[:2]).astype(int)
            right, bottom = np.ceil(box[2:]).astype(int)
            tried += 1
            if not mask[top:bottom, left:right].any():
                elsewhere.append(index)
    if len(elsewhere) > tried / 2:
        raise UserError(
            f"{len(elsewhere):,} of the {tried:,} {half} masks tried have no pixel in their boxes, the first in "
            f"{source.name(elsewhere[0])}: were the boxes scaled with the images, and the masks not?"
        )
    if not elsewhere:
        return []
    first = source.name(elsewhere[0])
    return [f"{len(elsewhere):,} of the {tried:,} masks tried have no pixel in their boxes, the first in {first}"]


def _in_both(train: DetectionSource, evaluation: DetectionSource) -> int:
    """How many images are in both halves, where these are files."""
    if not (isinstance(train, HasFiles) and isinstance(evaluation, HasFiles)):
        return 0
    paths = [{source.path(index) for index in range(len(source))} for source in (train, evaluation)]
    return len(paths[0] & paths[1])
