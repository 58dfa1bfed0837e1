"""Hugging Face's image folders: a table of images and classes beside the images."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pvt_jax import config as config_lib
from pvt_jax.data.formats import LABELLED_IMAGES, open_source
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.tasks.classification.source import ClassificationSource
from tests.helpers.command import ROOT
from tests.helpers.detection_data import save


def write(folder: Path, *rows: tuple[str, Any], kind: str = "jsonl", column: str = "label") -> None:
    for name, _ in rows:
        save(folder / name, np.zeros((4, 4, 3), np.uint8))
    lines = [json.dumps({"file_name": name, column: label, "more": [1]}) for name, label in rows]
    if kind == "csv":
        lines = [f"file_name,{column},more", *(f'"{name}",{label},1' for name, label in rows)]
    (folder / f"metadata.{kind}").write_text("\n".join([*lines, ""]), encoding="utf-8-sig")


def opened(root: Path, split: Any = "train", **rest: Any) -> Any:
    return open_source(LABELLED_IMAGES, "metadata", Request(split, root=str(root), **rest))


def message(*arguments: Any, **rest: Any) -> str:
    with pytest.raises(UserError) as caught:
        opened(*arguments, **rest)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("above", ["", "data"])
def test_rows(tmp_path, kind, above):
    write(tmp_path / above / "train", ("b/1.png", "dog"), ("ü 0.png", "cat"), ("2.png", "dog"), kind=kind)
    write(tmp_path / above / "validation", ("3.png", "dog"), kind=kind)
    train, evaluation = (pickle.loads(pickle.dumps(opened(tmp_path, split))) for split in ("train", "eval"))
    assert isinstance(train, ClassificationSource) and train.class_names == evaluation.class_names == ("cat", "dog")
    assert train.labels.tolist() == [1, 0, 1] and evaluation.labels.tolist() == [1]
    assert os.path.relpath(train.path(1), tmp_path) == os.path.join(above, "train/ü 0.png")
    assert train[1] == {"image": Path(train.path(1)).read_bytes(), "label": 0}
    config = config_lib.load(f"{ROOT / 'configs/finetune.py'}:{tmp_path}", ["data.source=metadata"])
    assert config.model.num_classes == 2


def test_numbers_are_in_their_order(tmp_path):
    write(tmp_path / "train", ("0.png", 10), ("1.png", 9), ("2.png", 10), column="category")
    assert opened(tmp_path).class_names == ("9", "10") and opened(tmp_path).labels.tolist() == [1, 0, 1]


def test_divided_by_holdout_or_evaluated_alone(tmp_path):
    write(tmp_path, *((f"{n}.png", "cat" if n < 10 else "dog") for n in range(15)))
    train, evaluation = (opened(tmp_path, split, holdout=0.2) for split in ("train", "eval"))
    assert np.bincount(train.labels).tolist() == [8, 4] and np.bincount(evaluation.labels).tolist() == [2, 1]
    assert "; add --config.data.holdout=0.2, which keeps" in message(tmp_path)
    assert opened(tmp_path, "eval", learned=("ant", "cat", "dog")).labels.tolist() == [1] * 10 + [2] * 5


def test_refused(tmp_path):
    write(tmp_path / "train", ("0.png", "cat"), ("1.png", "dog"))
    write(tmp_path / "val", ("2.png", "dgo"))
    assert message(tmp_path, "eval") == (
        f"{tmp_path}/val/metadata.jsonl has classes that the training data has not, dgo (did you mean 'dog'?): correct "
        f"them"
    )
    path = tmp_path / "train/metadata.jsonl"
    for text, what in (
        ('{"file_name": "7.png", "label": "cat"}', "images are missing, the first is '7.png': fetch them, or remove"),
        ('{"label": "cat"}', "rows have no file_name, the first is line 1: add it"),
        (
            '{"file_name": "0.png"}',
            "rows have no class, the first is line 1, of '0.png': add one of the columns label,",
        ),
        ("[1]", "lines are no JSON objects, the first is line 1: write each row in a line"),
        ("{", "lines are no JSON objects, the first is line 1: write each row in a line"),
    ):
        path.write_text(text)
        assert message(tmp_path).startswith(f"{path}: 1 {what}")
    path.write_text("\n")
    assert message(tmp_path).startswith(f"{path} lists no images: write a line")
