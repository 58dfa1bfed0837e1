"""Writing a TFDS data set as ArrayRecord, once. imagenet2012 needs no TensorFlow for it."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pvt_jax import paths
from pvt_jax.data.formats.tfds.records import import_tfds, one_line
from pvt_jax.errors import UserError

# In the folder of a data set whose training images were resized: to which shorter side.
_RESIZED = "shorter_side.txt"
_QUALITY = 95


def prepare(name: str, *, root: str = "", manual_dir: str = "", shorter_side: int = 0) -> str:
    """Writes TFDS data set ``name`` as array_record below ``root``, its data_dir ("": the default); returns the folder.

    The originals come from ``manual_dir`` where TFDS cannot download them. imagenet2012 is written without TensorFlow,
    with the same records in the same order as TFDS's own; for others TFDS itself needs TensorFlow. Its training images
    may be made smaller, so that their shorter sides are at most ``shorter_side`` pixels; 0 leaves them. Raises
    UserError: originals that are missing or broken, an unknown name, TensorFlow missing where it is needed, or a folder
    that is there with images of another size.
    """
    if shorter_side < 0 or (shorter_side and name != "imagenet2012"):
        raise UserError(
            f"--shorter_side={shorter_side} is for the training images of imagenet2012, in pixels: leave it out for "
            f"'{name}', or resize its originals"
            if shorter_side > 0
            else f"--shorter_side is {shorter_side}: give pixels, as 480, or leave it out"
        )
    data_dir, manual_dir = paths.local(root, "--data_dir") or None, paths.local(manual_dir, "--manual_dir")
    tfds = import_tfds()
    config = tfds.download.DownloadConfig(manual_dir=manual_dir or None)
    try:
        if name == "imagenet2012":
            builder = _imagenet_builder(data_dir, manual_dir, shorter_side)
            _check_size_of_what_is_there(Path(builder.data_dir), shorter_side)
        else:
            builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare(download_config=config)
    except ImportError as error:
        raise UserError(
            f"TFDS needs TensorFlow to prepare '{name}' ({one_line(error)}): run this again after "
            f"`pip install tensorflow importlib_resources`, here or on another machine; reading needs neither"
        ) from error
    except tarfile.TarError as error:
        raise UserError(f"the tar files in {manual_dir} are incomplete ({error}): fetch them again") from error
    except (AssertionError, ValueError, LookupError, RuntimeError, OSError) as error:
        raise UserError(f"TFDS cannot prepare '{name}': {one_line(error)}") from error
    return str(builder.data_dir)


def _check_size_of_what_is_there(folder: Path, shorter_side: int) -> None:
    if not folder.is_dir():
        return
    found = int((folder / _RESIZED).read_text()) if (folder / _RESIZED).exists() else 0
    if found != shorter_side:
        size = f"whose shorter sides are at most {found} pixels" if found else "of their own size"
        raise UserError(f"{folder} is there, with training images {size}: choose another --data_dir, or remove it")


def _imagenet_builder(root: str | None, manual_dir: str, shorter_side: int) -> Any:
    """Returns TFDS's imagenet2012 builder with what needs TensorFlow replaced: access to the tars, and recoding."""
    train_tar, val_tar = (os.path.join(manual_dir, f"ILSVRC2012_img_{part}.tar") for part in ("train", "val"))
    for tar in (train_tar, val_tar):
        if not os.path.isfile(tar):
            raise UserError(
                f"no file {tar}: register at https://image-net.org/download-images, download ILSVRC2012_img_train.tar "
                f"and ILSVRC2012_img_val.tar, and pass their folder as --manual_dir"
            )
    tfds = import_tfds()
    labels = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt").read_text().split()
    stock: Any = type(tfds.builder("imagenet2012", data_dir=root))

    class Imagenet2012(stock, skip_registration=True):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
        name = "imagenet2012"
        # Where TFDS looks for checksums; there is nothing to download.
        code_path = None

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            if shorter_side:
                # The folder gets its name when it is whole.
                (Path(self.data_dir) / _RESIZED).write_text(f"{shorter_side}\n")
            return {"train": _train_examples(train_tar, shorter_side), "validation": _val_examples(val_tar, labels)}

    return Imagenet2012(data_dir=root, file_format="array_record")


def _train_examples(path: str, shorter_side: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the records of a tar of one tar for each class, n01440764.tar and so on."""
    with tarfile.open(path, "r|*") as classes:
        for member in classes:
            if member.isfile() and member.name.endswith(".tar"):
                label = PurePosixPath(member.name).stem
                for name, data in _tar_images(classes.extractfile(member), shorter_side):
                    yield name, {"file_name": name, "image": data, "label": label}


def _val_examples(path: str, labels: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the records of a tar of ILSVRC2012_val_00000001.JPEG and so on; the number finds the label."""
    with open(path, "rb") as file:
        for name, data in _tar_images(file):
            number = int(PurePosixPath(name).stem.rpartition("_")[2])
            yield name, {"file_name": name, "image": data, "label": labels[number - 1]}


def _tar_images(file: Any, shorter_side: int = 0) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=file, mode="r|*") as images:
        for member in images:
            if (image := images.extractfile(member)) is not None:
                yield PurePosixPath(member.name).name, _as_rgb_jpeg(image.read(), shorter_side)


def _as_rgb_jpeg(data: bytes, shorter_side: int) -> bytes:
    """Recodes what is not an RGB or grey JPEG, as TFDS does: ImageNet holds 22 CMYK files and one PNG named .JPEG.

    What is larger than ``shorter_side`` (0: nothing is) becomes smaller, and keeps its EXIF data.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            is_jpeg, shorter = image.format == "JPEG" and image.mode != "CMYK", min(image.size)
            if is_jpeg and not 0 < shorter_side < shorter:
                return data
            recoded, rgb = io.BytesIO(), image if is_jpeg else image.convert("RGB")
            if 0 < shorter_side < shorter:
                width, height = (round(side * shorter_side / shorter) for side in image.size)
                smaller = rgb.resize((width, height), Image.Resampling.BICUBIC)
                smaller.save(recoded, "JPEG", quality=_QUALITY, exif=image.info.get("exif", b""))
            else:
                rgb.save(recoded, "JPEG", quality=100)
            return recoded.getvalue()
    except OSError:
        return data  # Reported with its name when it is decoded.
