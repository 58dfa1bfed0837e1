"""Weights that others have published: where they are, how their files are recognised, and under which licence.

Models of ``pvt_jax.list_models`` pre-trained on ImageNet-1k, or with a head trained on ADE20K or COCO, by a name of
their own. The PVT authors' own detectors are on drives that give no file to a plain download; those here are
mmdetection's. Nothing here is ours, and nothing is downloaded before its name is asked for. A hash stands in the table
if the publisher states it (the pages of Hugging Face; the end of a file's name, which by the convention of PyTorch and
mmdetection begins its SHA-256) or if unrelated public projects that pinned the file recorded the same one. Files
without a hash are checked by their length only.
"""

import contextlib
import difflib
import hashlib
import http.client
import logging
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from pvt_jax.errors import UserError
from pvt_jax.weights.torch_file import expanded, open_file

log = logging.getLogger("pvt_jax")

_CHUNK = 2**20


@dataclass(frozen=True)
class KnownWeights:
    """One published file. ``sha256`` is the whole hash or, where no more is published, its first eight digits.

    ``head`` is that of a dense model, as ``create_model`` knows it; empty for a classifier.
    """

    model: str
    url: str
    licence: str
    source: str
    size: int | None = None
    sha256: str | None = None
    non_commercial: bool = False
    head: str = ""


_SEGFORMER_LICENCE = "NVIDIA Source Code License for SegFormer: NON-COMMERCIAL, for research or evaluation only"


def _pvt(model: str, sha256: str | None = None) -> KnownWeights:
    return KnownWeights(
        model,
        f"https://github.com/whai362/PVT/releases/download/v2/{model}.pth",
        "Apache-2.0",
        "the authors' release v2, https://github.com/whai362/PVT",
        sha256=sha256,
    )


def _timm(model: str, revision: str, sha256: str | None = None) -> KnownWeights:
    page = f"https://huggingface.co/timm/{model}.in1k"
    return KnownWeights(model, f"{page}/resolve/{revision}/model.safetensors", "Apache-2.0", page, sha256=sha256)


def _mit(size: str, revision: str, sha256: str | None = None) -> KnownWeights:
    page = f"https://huggingface.co/nvidia/mit-{size}"
    return KnownWeights(
        f"mit_{size}",
        f"{page}/resolve/{revision}/pytorch_model.bin",
        _SEGFORMER_LICENCE,
        page,
        sha256=sha256,
        non_commercial=True,
    )


def _segformer(
    size: str,
    revision: str,
    file: str = "pytorch_model.bin",
    side: int = 512,
    length: int | None = None,
    sha256: str | None = None,
) -> KnownWeights:
    page = f"https://huggingface.co/nvidia/segformer-{size}-finetuned-ade-{side}-{side}"
    return KnownWeights(
        f"mit_{size}",
        f"{page}/resolve/{revision}/{file}",
        _SEGFORMER_LICENCE,
        page,
        length,
        sha256,
        non_commercial=True,
        head="segformer",
    )


def _retinanet(model: str, theirs: str, run: str) -> KnownWeights:
    # All norms there have an epsilon of 1e-6; here, as the authors have it, those of embeddings and reduced maps 1e-5.
    name = f"retinanet_{theirs}_fpn_1x_coco"
    return KnownWeights(
        model,
        f"https://download.openmmlab.com/mmdetection/v2.0/pvt/{name}/{name}_{run}.pth",
        "Apache-2.0",
        "mmdetection's model zoo, https://github.com/open-mmlab/mmdetection/tree/v2.28.2/configs/pvt",
        sha256=run.rpartition("-")[2],
        head="retinanet",
    )


def _deit(size: str, sha256: str) -> KnownWeights:
    return KnownWeights(
        f"vit_{size}_patch16",
        f"https://dl.fbaipublicfiles.com/deit/deit_{size}_patch16_224-{sha256[:8]}.pth",
        "Apache-2.0",
        "https://github.com/facebookresearch/deit/blob/main/README_deit.md",
        sha256=sha256,
    )


def _resnet(model: str, sha256: str, size: int | None = None) -> KnownWeights:
    return KnownWeights(
        model,
        f"https://download.pytorch.org/models/{model}-{sha256[:8]}.pth",
        "BSD-3-Clause",
        "torchvision's IMAGENET1K_V1, https://github.com/pytorch/vision",
        size,
        sha256,
    )


KNOWN: dict[str, KnownWeights] = {
    "pvt_tiny": _pvt("pvt_tiny"),
    "pvt_small": _pvt("pvt_small"),
    "pvt_medium": _pvt("pvt_medium"),
    "pvt_large": _pvt("pvt_large"),
    "pvt_v2_b0": _pvt("pvt_v2_b0"),
    "pvt_v2_b1": _pvt("pvt_v2_b1"),
    "pvt_v2_b2": _pvt("pvt_v2_b2", "80711cd1b37ffba12bec6c7a2a7c54efe2315ed635e6d2055fd51c3e909ede4d"),
    "pvt_v2_b2_li": _pvt("pvt_v2_b2_li"),
    "pvt_v2_b3": _pvt("pvt_v2_b3"),
    "pvt_v2_b4": _pvt("pvt_v2_b4"),
    "pvt_v2_b5": _pvt("pvt_v2_b5"),
    "timm/pvt_v2_b0.in1k": _timm(
        "pvt_v2_b0",
        "49dc8313e71a48d663725f72de23fcffffd09485",
        "d0927f8c963fa7ae1ca6cd459449a076a954c561245ca6025103fceffd2df34c",
    ),
    "timm/pvt_v2_b1.in1k": _timm(
        "pvt_v2_b1",
        "13157087b0d5eb03c71042dc512737e9d42bc741",
        "0cb38d3df58e50bb591e99ded2a1a2a02bc807415e9bed4d4076428239112caa",
    ),
    "timm/pvt_v2_b2.in1k": _timm(
        "pvt_v2_b2",
        "250d713d8bfcb761737d55c1abac06294f95f41d",
        "0bff520d64b91bdbb35f2b5bff2b62d35a9d9c6d6a5056e683f1e7ce556d0e5e",
    ),
    "timm/pvt_v2_b2_li.in1k": _timm("pvt_v2_b2_li", "c7eccd600341a422ce089acd2ad5870b67e6ec7d"),
    "timm/pvt_v2_b3.in1k": _timm("pvt_v2_b3", "main"),
    "timm/pvt_v2_b4.in1k": _timm("pvt_v2_b4", "main"),
    "timm/pvt_v2_b5.in1k": _timm(
        "pvt_v2_b5",
        "b18cbdbb9509cc98b2529f64662eb23c218f9978",
        "070ea6f6e2b9c06fa8dc9ba943c04d5fb74df01f2cb328d95ae65c94c304176b",
    ),
    "mit_b0": _mit(
        "b0",
        "80983a413c30d36a39c20203974ae7807835e2b4",
        "4af8348c2a802bf76115d34797ff5ce1d9f110bb8593c22d9b66d8bd7fa227fc",
    ),
    "mit_b1": _mit(
        "b1",
        "13ddceec4e8bdf401e7cd7acf5aebc526222518c",
        "980b86b60db37b1b1528086f6c53d253d879e9e09ebe07397b40fd275738a3bf",
    ),
    "mit_b2": _mit(
        "b2",
        "3bb39e8739149c3777d0325349b2a6c32c6413db",
        "4500b5665471b593e6757e15bcca5034f433fe3902fe8ec2b7230774a57f264f",
    ),
    "mit_b3": _mit("b3", "0e0522cf0515903a0d35abc5adc9df78a25fde7c"),
    "mit_b4": _mit(
        "b4",
        "3844ddaa13d9ce98816bacb904688a5284f164af",
        "1cddf0f9ed0b7f1639a8f5e339c177673685df3e2e3c9575a649eb15bcf68a55",
    ),
    "mit_b5": _mit(
        "b5",
        "40357155205b036cf11b61f132d53d2f8861f170",
        "a389c0a604458fa205446fd08a2c01b74e6591a5da3e77de668c6ca5cbf75356",
    ),
    "segformer_b0_ade": _segformer(
        "b0",
        "489d5cd81a0b59fab9b7ea758d3548ebe99677da",
        "model.safetensors",
        length=15_036_944,
        sha256="6ae39addd01de6b1b8bde2cf677d43a5cd733424b8d186de3f95d1c51fee23f9",
    ),
    "segformer_b1_ade": _segformer("b1", "main"),
    "segformer_b2_ade": _segformer(
        "b2",
        "de01bae28967510f9ddd496c60a969357195400c",
        sha256="187ca07bea003a5717c63d04ea90b07f33cd033c0ebf44b4b89fce5070d6c8f3",
    ),
    "segformer_b5_ade": _segformer("b5", "739f5d4692954e4a185eac280dec1ba5a7d52f1d", side=640),
    "retinanet_pvt_tiny_coco": _retinanet("pvt_tiny", "pvt-t", "20210831_103110-17b566bd"),
    "retinanet_pvt_small_coco": _retinanet("pvt_small", "pvt-s", "20210906_142921-b6c94a5b"),
    "retinanet_pvt_medium_coco": _retinanet("pvt_medium", "pvt-m", "20210831_103243-55effa1b"),
    "retinanet_pvt_v2_b0_coco": _retinanet("pvt_v2_b0", "pvtv2-b0", "20210831_103157-13e9aabe"),
    "retinanet_pvt_v2_b1_coco": _retinanet("pvt_v2_b1", "pvtv2-b1", "20210831_103318-7e169a7d"),
    "retinanet_pvt_v2_b2_coco": _retinanet("pvt_v2_b2", "pvtv2-b2", "20210901_174843-529f0b9a"),
    "retinanet_pvt_v2_b3_coco": _retinanet("pvt_v2_b3", "pvtv2-b3", "20210903_151512-8357deff"),
    "retinanet_pvt_v2_b4_coco": _retinanet("pvt_v2_b4", "pvtv2-b4", "20210901_170151-83795c86"),
    "retinanet_pvt_v2_b5_coco": _retinanet("pvt_v2_b5", "pvtv2-b5", "20210902_201800-3420eb57"),
    "deit_tiny": _deit("tiny", "a1311bcf4f24e3c95adaa75535db67bc4412d95535b98f7c1dfd1164dda41c97"),
    "deit_small": _deit("small", "cd65a155"),
    "deit_base": _deit("base", "b5f2ef4d"),
    "resnet18": _resnet("resnet18", "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec", 46_830_571),
    "resnet34": _resnet("resnet34", "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f"),
    "resnet50": _resnet("resnet50", "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a", 102_530_333),
    "resnet101": _resnet("resnet101", "63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a"),
}


def cache_folder() -> Path:
    """Where downloads are kept: $PVT_JAX_CACHE, else pvt_jax in $XDG_CACHE_HOME, else ~/.cache/pvt_jax."""
    if own := os.environ.get("PVT_JAX_CACHE"):
        return expanded(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return expanded(shared) / "pvt_jax"
    return expanded("~/.cache/pvt_jax")


def fetch_known(name: str, *, timeout: float = 60.0) -> Path:
    """The file of the weights ``name`` of ``KNOWN`` in the cache, downloaded if it is not there or not as published.

    A file appears under its final name only whole and checked, also when several processes want it at once. The licence
    is logged when downloading.

    Args:
      name: a key of ``KNOWN``.
      timeout: seconds without an answer after which the server counts as not there.

    Raises:
      UserError: no such name, no network, no such file there, or a file that is not the published one.
    """
    if name not in KNOWN:
        near = difflib.get_close_matches(name, KNOWN, 1, 0.0)[0]
        raise UserError(f"no known weights are called {name!r}: did you mean {near!r}? Known are {', '.join(KNOWN)}")
    known = KNOWN[name]
    suffix = PurePosixPath(urllib.parse.urlsplit(known.url).path).suffix
    path = cache_folder() / f"{name.replace('/', '_')}{suffix}"
    if path.is_file():
        problem = _difference(known, *_measure(path))
        if not problem:
            return path
        log.warning("%s is not the published file (%s) and is downloaded anew", path, problem)
    log.log(
        logging.WARNING if known.non_commercial else logging.INFO,
        *("downloading the weights %s from %s (%s); licence: %s", name, known.url, known.source, known.licence),
    )
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        size, sha256 = _download(name, known, path, temporary, timeout)
        if problem := _difference(known, size, sha256):
            raise UserError(
                f"what {known.url} sent is not the published {name} ({problem}) and was removed: try again later, and "
                "if it stays so, do not trust it"
            )
        with _writing(path):
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def _difference(known: KnownWeights, size: int, sha256: str) -> str:
    """How a file differs from the published one; empty if it does not."""
    if known.size is not None and size != known.size:
        return f"expected {known.size:,} bytes, found {size:,}"
    if known.sha256 is not None and not sha256.startswith(known.sha256):
        return f"expected SHA-256 {known.sha256}, found {sha256[: len(known.sha256)]}"
    return ""


def _measure(path: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    with open_file(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        return file.tell(), digest.hexdigest()


def _download(name: str, known: KnownWeights, path: Path, temporary: Path, timeout: float) -> tuple[int, str]:
    """Length and hash of what was written to ``temporary``."""
    digest, size = hashlib.sha256(), 0
    with _writing(path), temporary.open("wb") as file:
        for chunk in _receive(name, known, path, timeout):
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
    return size, digest.hexdigest()


def _receive(name: str, known: KnownWeights, path: Path, timeout: float) -> Iterator[bytes]:
    """What the server sends, to its end; what goes wrong on the way is a UserError."""
    by_hand = f"run it again, download it yourself to {path}, or give the path of the file itself"
    request = urllib.request.Request(known.url, headers={"User-Agent": "pvt_jax"})
    size = 0
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            promised = response.headers.get("Content-Length", "")
            total = int(promised) if promised.isdigit() else known.size
            for chunk in _with_progress(response, name, total):
                size += len(chunk)
                yield chunk
    except urllib.error.HTTPError as error:
        raise UserError(f"{known.url} answers {error.code} {error.reason} for the weights {name}: {by_hand}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"cannot download the weights {name} from {known.url} ({reason}): {by_hand}") from error
    if total is not None and size < total:
        raise UserError(f"the download of {name} from {known.url} broke off at {size:,} of {total:,} bytes: {by_hand}")


def _with_progress(response: BinaryIO | Any, name: str, total: int | None) -> Iterator[bytes]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(name, total=total)
        while chunk := response.read(_CHUNK):
            progress.advance(task, len(chunk))
            yield chunk


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Make room or fix the permission, or set PVT_JAX_CACHE to "
            "another folder"
        ) from error
