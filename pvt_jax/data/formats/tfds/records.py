"""TensorFlow Datasets over ArrayRecord, read without TensorFlow; ``prepare.py`` writes them once."""

import contextlib
import io
import operator
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from absl import logging

from pvt_jax import paths
from pvt_jax.data.formats.layouts import split_names
from pvt_jax.data.records import ClassificationRecord, Request
from pvt_jax.errors import UserError
from pvt_jax.messages import did_you_mean


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
            raise UserError(f"cannot read {self.name(index)} ({one_line(error)}): is the data still there?") from error

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


def open_tfds(request: Request) -> TfdsSource:
    """Opens a split of a prepared TFDS data set.

    Raises UserError: an unknown name or split, or data that is not prepared as array_record.
    """
    name, data_dir = request.name, data_dir_of(request)
    if not name:
        raise UserError("the tfds source needs name: a TFDS data set, such as imagenet2012 or cifar10")
    return TfdsSource(name, chosen_split(open_builder(name, data_dir), request), data_dir)


def data_dir_of(request: Request) -> str | None:
    """Returns TFDS's data_dir, on this machine or in a bucket of Google Cloud Storage; None for its default."""
    if paths.is_bucket(request.root):
        return str(paths.place(request.root, "data.root"))
    return paths.local(request.root, "data.root") or None


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
            raise UserError(f"TFDS cannot open '{name}': {one_line(error)}") from error
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


def chosen_split(builder: Any, request: Request) -> str:
    """Returns the split that the config names, else the first usual one; raises UserError when there is none."""
    known, names = list(builder.info.splits), split_names(request)
    found = request.split_name or next((name for name in names if name in known), "")
    if not found:
        raise UserError(
            f"TFDS data set '{builder.name}' has no split {' or '.join(names)}, only {', '.join(known)}: set "
            f"data.{request.split}_split, such as 'train[90%:]' for evaluation and 'train[:90%]' for training"
        )
    return found


def needed_name(request: Request, records: str, examples: str) -> str:
    """Returns the name of the data set; raises UserError for none, and for ImageNet, which has no such ``records``."""
    # Configs name ImageNet by default.
    if request.name.partition(":")[0] in ("", "imagenet2012"):
        raise UserError(
            f"the tfds source needs name: a TFDS data set with {records}, such as {examples}"
            f"{', not imagenet2012, which has none' * bool(request.name)}"
        )
    return request.name


def import_tfds() -> Any:
    """Returns TFDS, imported when it is needed; raises UserError where it is not installed, or not usable."""
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(f"the tfds source needs `pip install tensorflow-datasets` ({error})") from error
    # It logs what its own import raises, and is then a module without contents.
    if not hasattr(tensorflow_datasets, "features"):
        try:
            import_module("tensorflow_datasets.public_api")
        except Exception as error:
            raise UserError(
                f"tensorflow-datasets cannot be imported here ({str(error).partition('. ')[0]}): install a version of "
                "what it names that fits, such as pip install -U protobuf, and restart"
            ) from error
    return tensorflow_datasets


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS while it opens a data set; its failures become UserErrors."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def one_line(error: BaseException) -> str:
    """Returns the message of an error without line breaks."""
    return " ".join(str(error).split())


def prepare_command(name: str, root: str | None) -> str:
    """Returns the shell command that prepares TFDS data set ``name`` in ``root`` (None: TFDS's default data_dir)."""
    originals = {"imagenet2012": "FOLDER_WITH_THE_TWO_TARS", "cityscapes": "FOLDER_WITH_THE_TWO_ZIPS"}
    folder = originals.get(re.split("[:/]", name)[0])
    manual = f" --manual_dir={folder}" if folder else ""
    where = f" --data_dir={root}" if root else ""
    return f"python -m pvt_jax.prepare {name}{manual}{where}"
