"""Which files are images that can be read, by the end of their names or by their content, and what others need.

An ending that is known is trusted when folders are listed: opening each of a million files takes long over a network.
Only files without an ending that is known are opened, and decoding goes by the content in any case.
"""

import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence

from PIL import Image, features

from pvt_jax.messages import escaped, listed

# Pillow's name of each format that is read, and the usual endings.
_FORMATS = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif", "jif", "pjpeg"),
    "PNG": ("png", "apng"),
    "BMP": ("bmp", "dib"),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "TIFF": ("tif", "tiff"),
    "PPM": ("ppm", "pgm", "pbm", "pnm"),
    "JPEG2000": ("jp2", "j2k", "jpx", "jpf"),
    **({"AVIF": ("avif",)} if "avif" in features.modules and features.check("avif") else {}),
}
FORMATS = tuple(_FORMATS)
EXTENSIONS = frozenset(ending for endings in _FORMATS.values() for ending in endings)

# Formats of which some files lose what was saved.
LOSSY = frozenset(ending for name in ("JPEG", "WEBP", "JPEG2000", "AVIF") for ending in _FORMATS.get(name, ()))
# What to do about files of other kinds that may hold pictures: (way out, endings).
_WAYS_OUT = (
    (
        "convert to {formats}",
        "avif heic heif hif jxl jxr wdp raw dng cr2 cr3 crw nef nrw arw sr2 srf srw orf rw2 raf pef 3fr iiq x3f mrw "
        "psd psb xcf kra ai eps ps svg svgz pdf exr hdr tga ico icns dds ktx djvu dcm dicom nii fits jps mpo pcx xpm",
    ),
    ("extract frames", "mp4 m4v mov avi mkv webm mpg mpeg wmv flv 3gp mts m2ts"),
    ("unpack", "zip tar tgz gz bz2 xz 7z rar zst"),
    (
        "save images as files",
        "npy npz mat h5 hdf5 pt pth pkl pickle tfrecord tfrecords parquet arrow mdb array_record",
    ),
)
UNREAD = {ending: way for way, endings in _WAYS_OUT for ending in endings.split() if ending not in EXTENSIONS}
# Never images: not worth opening.
_TEXT = "txt xml json jsonl csv tsv md rst yaml yml toml ini cfg html htm log py pyc ipynb sh bat m r js css"
_DOCUMENTS = "db lnk url part doc docx xls xlsx ppt pptx odt rtf mp3 wav exe dll"
_OTHERS = frozenset(f"{_TEXT} {_DOCUMENTS}".split())


# What lies in place of an image that was not fetched well, or has a wrong ending, by its first bytes.
_CONTENTS = {
    rb"version https://git-lfs": "a pointer of Git LFS: run git lfs pull",
    rb"(?i)\s*<(!doctype html|html|head)": "an HTML page, as servers send for lack of a file: download it again",
    rb"\s*(<\?xml.*?>\s*)?(<!--.*?-->\s*|<!doctype.*?>\s*)*<svg": "SVG: convert it to JPEG or PNG",
    rb"(?i)\s*<(\?xml|error)": "XML: download it again",
    rb"\s*[{\[]": "JSON: download it again",
    rb"%PDF": "PDF: convert it to JPEG or PNG",
    rb"%!PS|\xc5\xd0\xd3\xc6": "PostScript: convert it to JPEG or PNG",
    rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)": "HEIC: convert it to JPEG or PNG",
    rb".{4}ftypavi[fs]": "AVIF, which this version of Pillow does not read: convert it to JPEG or PNG",
    rb".{4}ftyp|.{4}moov|\x1aE\xdf\xa3|RIFF.{4}AVI ": "a video: extract frames",
    rb"8BPS": "a file of Photoshop: convert it to JPEG or PNG",
    rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!": "an archive: unpack it",
    rb"\0+\Z": "zeros alone, as a download or copy that was cut off leaves them",
}


def content_of(data: bytes) -> str:
    """What bytes that are no image look like, and what to do about them; "" if that is not known."""
    return next((what for mark, what in _CONTENTS.items() if re.match(mark, data[:4096], re.DOTALL)), "")


def ending_of(name: str) -> str:
    """Returns the ending of a file's name in lower case without its dot; "" for none."""
    return os.path.splitext(name)[1][1:].lower()


def is_known(path: str) -> bool:
    """Whether a file need not be opened to tell its kind."""
    ending = ending_of(path)
    return ending in EXTENSIONS or ending in UNREAD or ending in _OTHERS


def is_image(path: str) -> bool:
    """Whether a file is an image that can be read, by its ending."""
    return ending_of(path) in EXTENSIONS


def holds_image(path: str) -> bool:
    """Whether a file is an image that can be read, by its content."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS):
                return True
    except Image.DecompressionBombError:
        return True
    except MemoryError:
        raise
    except Exception:  # Pillow's plug-ins raise whatever the bytes provoke.
        return False


def stem_of(path: str) -> str:
    """Returns a path without its ending, if that is one of a known kind of file."""
    return os.path.splitext(path)[0] if is_known(path) else path


class Unread:
    """Counts what is not read in a folder, by kind and reason; ``formats`` are those that files can be converted to."""

    def __init__(self, formats: str = "JPEG or PNG") -> None:
        self.counts: Counter[str] = Counter()
        self.formats = formats

    def __bool__(self) -> bool:
        return bool(self.counts)

    def add(self, what: str, count: int = 1) -> None:
        """Counts more of a kind, in words that may hold {formats}, and {s} for the ending of a plural."""
        if count:
            self.counts[what] += count

    def add_left_out(self, broken: Sequence[str], hidden: Sequence[str]) -> None:
        """Counts what is in a folder beside files and folders, see ``files.Listing``."""
        self.add("broken link{s}", len(broken))
        self.add("hidden (rename without the dot)", len(hidden))

    def add_file(self, name: str) -> None:
        """Counts a file that is no image that can be read."""
        ending = ending_of(name)
        if ending in UNREAD:
            self.add(f".{ending} ({UNREAD[ending]})")
        elif ending in _OTHERS:
            self.add(f".{ending}")
        elif ending.isalnum() and len(ending) <= 8:
            self.add(f".{ending} (no image inside)")
        else:
            self.add("without an ending (no image inside)")

    def update(self, other: "Unread") -> None:
        """Adds what another counted."""
        self.counts.update(other.counts)

    def note(self, read: int, folder: str, but: Sequence[str] = ()) -> list[str]:
        """Returns a note on a folder of which so many images are ``read``; none if all others end in one of ``but``."""
        for ending in but:
            self.counts.pop(f".{ending}", None)
        count = self.counts.total()
        return [escaped(f"{count:,} of {read + count:,} files in {folder} are not read: {self}")] * bool(count)

    def __str__(self) -> str:
        """The kinds, the most frequent first."""
        kinds = sorted(self.counts.items(), key=lambda one: (-one[1], one[0]))
        return listed([f"{count:,} {what.format(formats=self.formats, s='s' * (count != 1))}" for what, count in kinds])
