"""Files of the same stem in two parallel trees of folders: images, and what belongs to each of them."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from pvt_jax.data.formats.split_lists import SplitList
from pvt_jax.data.formats.tools import known_tool
from pvt_jax.data.options import LabelMapOptions
from pvt_jax.errors import UserError
from pvt_jax.files.folders import scan_images
from pvt_jax.files.kinds import Unread, stem_of
from pvt_jax.files.spellings import composed
from pvt_jax.messages import escaped, plural


@dataclass(frozen=True)
class Side:
    """The files of one kind.

    Attributes:
        folder: absolute, with files at any depth.
        what: they are, in messages, as "label maps".
        key: of the config that sets ``suffix``.
        suffix: what their stems end in, such as "_leftImg8bit", and is not part of what they share.
        formats: in which they can be saved.
    """

    folder: str
    what: str
    key: str
    suffix: str = ""
    formats: str = "JPEG or PNG"

    def scan(self) -> tuple[list[str], Unread]:
        """Returns the images in the folder, and a count of what else is there."""
        paths, unread, _ = scan_images(self.folder)
        unread.formats = self.formats
        return paths, unread

    def owns(self, path: str) -> bool:
        """Whether a file's stem has the suffix."""
        return composed(stem_of(path)).endswith(composed(self.suffix))


class Pairs(NamedTuple):
    """The paths, relative to their folders, of each image and its partner, and notes on what else is there."""

    paths: list[tuple[str, str]]
    notes: list[str]


def find_pairs(images: Side, partners: Side, stems: str = "") -> Pairs:
    """Returns the pairs, sorted or as listed.

    Where both are in one folder, partners are those with their suffix, or the PNGs. ``stems`` is the path of a list of
    those wanted; "" for all. Raises UserError: no files, two of one stem, a file without its partner, or a list that
    names others.
    """
    (image_files, images_unread), (partner_files, partners_unread) = images.scan(), partners.scan()
    if images.folder == partners.folder:

        def is_partner(path: str) -> bool:
            return partners.owns(path) if partners.suffix else path.lower().endswith(".png")

        image_files = [path for path in image_files if not is_partner(path)]
        partner_files = [path for path in partner_files if is_partner(path)]
    image_of = _by_stem(images, image_files, images_unread)
    partner_of = _by_stem(partners, partner_files, partners_unread)
    if stems:
        chosen = _read_stems(stems, image_of, images.folder)
    else:
        chosen = sorted(image_of)
        _check_all_paired(partner_of, partners, image_of, images, images_unread)
    _check_all_paired(chosen, images, partner_of, partners, partners_unread)
    notes = images_unread.note(len(image_files), images.folder)
    if partners.folder != images.folder:
        notes += partners_unread.note(len(partner_files), partners.folder)
    for side, files, used in ((images, image_files, image_of), (partners, partner_files, partner_of)):
        if left := len(files) - len(used):
            what = f"{plural(left, side.what.removesuffix('s'))} in {side.folder}"
            notes.append(escaped(f"{what} without '{side.suffix}' at the end of the stem left out"))
    return Pairs([(image_of[stem], partner_of[stem]) for stem in chosen], notes)


def _by_stem(side: Side, paths: list[str], unread: Unread) -> dict[str, str]:
    """Returns the path of each stem, without the suffix, among those that end in it."""
    found: dict[str, str] = {}
    for path in filter(side.owns, paths):
        # Images and label maps may come from archives of different systems.
        stem = composed(stem_of(path)).removesuffix(composed(side.suffix))
        if stem in found:
            raise UserError(
                f"{escaped(os.path.join(side.folder, path))} and {escaped(found[stem])} have the same stem: remove one "
                f"of the two {side.what}, or set {side.key}"
            )
        found[stem] = path
    if not found:
        ending = f" whose stems end in '{side.suffix}'" if side.suffix else ""
        others = f"; it has {len(paths):,} others, such as {paths[0]}: correct {side.key}" if paths else ""
        holds = f" (it holds {unread})" * bool(unread)
        tool = known_tool(side.folder, LabelMapOptions())
        way_out = others or f": {tool or f'put them there, as {side.formats} files'}"
        raise UserError(escaped(f"no {side.what}{ending} in {side.folder}{holds}{way_out}"))
    return found


def _check_all_paired(stems: Collection[str], side: Side, others: dict[str, str], other: Side, unread: Unread) -> None:
    """Raises UserError unless each of ``stems`` is among ``others``, beside which files are ``unread``."""
    alone = sorted(set(stems) - others.keys())
    if not alone:
        return
    way_out = "add what is missing, or remove the rest"
    if len(alone) == len(stems):
        keys = sorted((side, other), key=lambda one: one.key)
        way_out = (
            f"{next(iter(others.values()))} is one of those there; if stems end differently, set "
            f"{keys[0].key} and {keys[1].key.rpartition('.')[2]} to their ends"
        )
    raise UserError(
        escaped(
            f"{len(alone):,} of {len(stems):,} {side.what} in {side.folder} have no {other.what.removesuffix('s')} of "
            f"the same stem in {other.folder}{f' (which also holds {unread})' * bool(unread)}, such as '{alone[0]}': "
            f"{way_out}"
        )
    )


def _read_stems(path: str, images: dict[str, str], folder: str) -> list[str]:
    """Returns the stems in a list, a line each; what may follow a stem after a space is not read."""
    read = SplitList(path, images, folder, None, any_rest=True)
    if read.unknown:
        raise UserError(
            escaped(
                f"{path} names '{read.unknown[0]}', but there is no such image: write the path of each image below its "
                f"folder, without its extension, such as '{next(iter(images))}'"
            )
        )
    if not read.stems:
        raise UserError(f"{escaped(path)} is empty: write the path of each image below its folder, a line each")
    return read.stems
