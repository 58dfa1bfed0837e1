"""TensorFlow Datasets over ArrayRecord, read without TensorFlow; and how to prepare them once.

    python -m pvt_jax.data.sources.tfds imagenet2012 --manual_dir=TARS --data_dir=ROOT

where TARS holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar. For imagenet2012 this needs no TensorFlow; for
other data sets it does (with importlib_resources, which TFDS 4.9.10 forgets to ask for), once and on any machine.
"""

import argparse
import contextlib
import io
import operator
import os
import re
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from absl import logging

from pvt_jax.data.sources import ClassificationRecord, Split, did_you_mean
from pvt_jax.errors import UserError


class TfdsRecords:
    """One split of a prepared TFDS data set, whose images stay encoded.

    ``name`` and ``split`` are as TFDS takes them, such as "imagenet2012:5.1.0" and "train[:90%]"; ``root`` is its
    data_dir, None for the default; ``images`` are the names of its image features. Raises UserError as ``open_tfds``.
    """

    def __init__(self, name: str, split: str, root: str | None, images: Sequence[str]) -> None:
        self._name, self._split, self._root, self._images = name, split, root, tuple(images)
        builder = open_builder(name, root)
        _check_split(builder, split)
        self._records: Any = _open_records(builder, split, self._images)
        self._length = len(self._records)

    def __len__(self) -> int:
        return self._length

    def record(self, index: int) -> dict[str, Any]:
        """Returns all features of record ``index``."""
        index = operator.index(index)
        if not 0 <= index < self._length:
            raise IndexError(f"record {index} of {self._length} in {self._name}/{self._split}")
        try:
            return self._records[index]
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise UserError(f"cannot read {self.name(index)} ({_one_line(error)}): is the data still there?") from error

    def name(self, index: int) -> str:
        return f"{self._name}/{self._split} record {index}"

    def __str__(self) -> str:
        return f"TFDS {self._name}" + (f" in {self._root}" if self._root else "")

    def __getstate__(self) -> dict[str, Any]:
        # Open readers and TFDS's feature objects stay behind: each process opens its own.
        return {name: value for name, value in self.__dict__.items() if name != "_records"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Now and not at the first record: Grain's threads would race for it.
        self.__dict__.update(state)
        self._records = _open_records(open_builder(self._name, self._root), self._split, self._images)


class TfdsSource(TfdsRecords):
    """Images and labels; these are unknown until a record is read. Arguments as of ``TfdsRecords``."""

    labels = None

    def __init__(self, name: str, split: str, root: str | None) -> None:
        self.class_names = _class_names(open_builder(name, root))
        super().__init__(name, split, root, ("image",))

    def __getitem__(self, index: int) -> ClassificationRecord:
        record = self.record(index)
        return {"image": record["image"], "label": int(record["label"])}


def open_tfds(
    name: str, split: Split, *, root: str = "", train_split: str = "train", eval_split: str | None = None
) -> TfdsSource:
    """Opens one half of a prepared TFDS data set below ``root``, TFDS's data_dir ("": the default; "~" is expanded).

    ``eval_split`` None takes the split validation where there is one, else test.

    Raises:
        UserError: an unknown name or split, or data that is not prepared as array_record.
    """
    if not name:
        raise UserError("the tfds source needs name: a TFDS data set, such as imagenet2012 or cifar10")
    data_dir = os.path.expanduser(root) or None
    if split == "train":
        return TfdsSource(name, train_split, data_dir)
    return TfdsSource(name, eval_split or default_eval_split(open_builder(name, data_dir)), data_dir)


def open_builder(name: str, root: str | None) -> Any:
    """Returns the builder of a data set that is prepared for random access; raises UserError otherwise."""
    tfds = import_tfds()
    with _quiet():
        try:
            builder = tfds.builder(name, data_dir=root)
        except tfds.core.DatasetNotFoundError as error:
            known = tfds.list_builders(with_community_datasets=False)
            base = name.partition(":")[0].partition("/")[0]
            raise UserError(
                f"TFDS has no data set '{base}'{did_you_mean(base, known)}, and {root or 'its data_dir'} holds none of "
                f"that name; the names are at https://www.tensorflow.org/datasets/catalog/overview"
            ) from error
        except ImportError as error:
            raise UserError(f"TFDS cannot open '{name}' without TensorFlow: use another data set or source") from error
        except (AssertionError, ValueError, RuntimeError, OSError) as error:
            raise UserError(f"TFDS cannot open '{name}': {_one_line(error)}") from error
        if not builder.is_prepared():
            raise UserError(
                f"TFDS data set '{name}' is not prepared in {builder.data_dir}: prepare it once with "
                f"`{prepare_command(name, root)}`"
            )
        formats = sorted(form.value for form in builder.info.available_file_formats())
    if "array_record" not in formats:
        raise UserError(
            f"TFDS data set '{name}' in {builder.data_dir} is prepared as {', '.join(formats)}, without random access: "
            f"prepare it once more with `{prepare_command(name, 'ANOTHER_FOLDER')}` and set data.root to that folder"
        )
    return builder


def _open_records(builder: Any, split: str, images: Sequence[str]) -> Any:
    tfds = import_tfds()
    decoders = {name: tfds.decode.SkipDecoding() for name in images}
    with _quiet():
        return builder.as_data_source(split, decoders=decoders, file_format="array_record")


def _class_names(builder: Any) -> tuple[str, ...]:
    tfds = import_tfds()
    features = named_features(builder)
    keys = list(features)
    if not ("image" in keys and "label" in keys and isinstance(features["label"], tfds.features.ClassLabel)):
        raise UserError(
            f"TFDS data set '{builder.name}' is not one image with one label: its features are {', '.join(keys)}; "
            f"choose an image classification data set"
        )
    return tuple(features["label"].names)


def named_features(builder: Any) -> dict[str, Any]:
    """Returns the features of a data set by their names; none where a record is something else than a dictionary."""
    features = builder.info.features
    return dict(features.items()) if isinstance(features, import_tfds().features.FeaturesDict) else {}


def _check_split(builder: Any, split: str) -> None:
    try:
        count = builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        known = list(builder.info.splits)
        raise UserError(
            f"TFDS data set '{builder.name}' has no split '{split}'{did_you_mean(split, known)}; it has "
            f"{', '.join(known)}, and parts of them such as '{known[0]}[:90%]'"
        ) from error
    if not count:
        raise UserError(f"split '{split}' of TFDS data set '{builder.name}' has no records: name a larger part")


def default_eval_split(builder: Any) -> str:
    """Returns the split validation or test; raises UserError when there is neither."""
    for split in ("validation", "test"):
        if split in builder.info.splits:
            return split
    known = ", ".join(builder.info.splits)
    raise UserError(
        f"TFDS data set '{builder.name}' has no validation or test split, only {known}: set eval_split, such as "
        f"'train[90%:]' with train_split 'train[:90%]'"
    )


def import_tfds() -> Any:
    """Returns TFDS, imported when it is needed; raises UserError where it is not installed."""
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(f"the tfds source needs `pip install tensorflow-datasets` ({error})") from error
    return tensorflow_datasets


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back what TFDS prints and warns about while opening: its failures are reported as UserError instead."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def prepare_command(name: str, root: str | None) -> str:
    """Returns the shell command that prepares TFDS data set ``name`` in ``root`` (None: TFDS's default data_dir)."""
    originals = {"imagenet2012": "FOLDER_WITH_THE_TWO_TARS", "cityscapes": "FOLDER_WITH_THE_TWO_ZIPS"}
    folder = originals.get(re.split("[:/]", name)[0])
    manual = f" --manual_dir={folder}" if folder else ""
    where = f" --data_dir={root}" if root else ""
    return f"python -m pvt_jax.data.sources.tfds {name}{manual}{where}"


def prepare(name: str, *, root: str = "", manual_dir: str = "") -> str:
    """Writes TFDS data set ``name`` as array_record below ``root``, its data_dir ("": the default); returns the folder.

    The originals come from ``manual_dir`` where TFDS cannot download them. imagenet2012 is written without TensorFlow,
    with the same records in the same order as TFDS's own; for others TFDS itself needs TensorFlow.

    Raises:
        UserError: originals that are missing or broken, an unknown name, or TensorFlow missing where it is needed.
    """
    tfds = import_tfds()
    data_dir = os.path.expanduser(root) or None
    config = tfds.download.DownloadConfig(manual_dir=os.path.expanduser(manual_dir) or None)
    try:
        if name == "imagenet2012":
            builder = _imagenet_builder(data_dir, os.path.expanduser(manual_dir))
        else:
            builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare(download_config=config)
    except ImportError as error:
        raise UserError(
            f"TFDS needs TensorFlow to prepare '{name}' ({_one_line(error)}): run this again after "
            f"`pip install tensorflow importlib_resources`, here or on another machine; reading needs neither"
        ) from error
    except tarfile.TarError as error:
        raise UserError(f"the tar files in {manual_dir} are incomplete ({error}): fetch them again") from error
    except (AssertionError, ValueError, LookupError, RuntimeError, OSError) as error:
        raise UserError(f"TFDS cannot prepare '{name}': {_one_line(error)}") from error
    return str(builder.data_dir)


def _imagenet_builder(root: str | None, manual_dir: str) -> Any:
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
        # Where TFDS would look for download checksums; there is nothing to download.
        code_path = None

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": _train_examples(train_tar), "validation": _val_examples(val_tar, labels)}

    return Imagenet2012(data_dir=root, file_format="array_record")


def _train_examples(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the records of a tar of one tar for each class, n01440764.tar and so on."""
    with tarfile.open(path, "r|*") as classes:
        for member in classes:
            if member.isfile() and member.name.endswith(".tar"):
                label = PurePosixPath(member.name).stem
                for name, data in _tar_images(classes.extractfile(member)):
                    yield name, {"file_name": name, "image": data, "label": label}


def _val_examples(path: str, labels: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the records of a tar of ILSVRC2012_val_00000001.JPEG and so on; the number finds the label."""
    with open(path, "rb") as file:
        for name, data in _tar_images(file):
            number = int(PurePosixPath(name).stem.rpartition("_")[2])
            yield name, {"file_name": name, "image": data, "label": labels[number - 1]}


def _tar_images(file: Any) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=file, mode="r|*") as images:
        for member in images:
            if (image := images.extractfile(member)) is not None:
                yield PurePosixPath(member.name).name, _as_rgb_jpeg(image.read())


def _as_rgb_jpeg(data: bytes) -> bytes:
    """Recodes what is not an RGB or grey JPEG, as TFDS does: ImageNet holds 22 CMYK files and one PNG named .JPEG."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "JPEG" and image.mode != "CMYK":
                return data
            recoded = io.BytesIO()
            image.convert("RGB").save(recoded, "JPEG", quality=100)
            return recoded.getvalue()
    except UnidentifiedImageError:
        return data  # reported with its name when it is decoded


def main(arguments: list[str] | None = None) -> int:
    """Prepares one data set; returns 0, or 2 after one line on stderr."""
    parser = argparse.ArgumentParser("python -m pvt_jax.data.sources.tfds", description="Prepare a TFDS data set once.")
    parser.add_argument("name", help="TFDS name, such as imagenet2012 or cifar10")
    parser.add_argument("--data_dir", default="", help="where to write; TFDS's default when unset")
    parser.add_argument("--manual_dir", default="", help="where the originals lie that TFDS cannot download")
    options = parser.parse_args(arguments)
    try:
        print("prepared in", prepare(options.name, root=options.data_dir, manual_dir=options.manual_dir))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
