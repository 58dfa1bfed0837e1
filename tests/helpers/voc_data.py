"""Small data sets in the format of Pascal VOC, and what opening them says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pvt_jax.data.formats import OBJECTS, open_source
from pvt_jax.data.options import ObjectOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from tests.helpers.detection_data import save, voc_xml


def opened(root: Path | str, split: Any = "train", num_classes: int = 2, **rest: Any) -> Any:
    splits = {key: rest.pop(key) for key in ("train_split", "eval_split") if key in rest}
    options = ObjectOptions(num_classes, **{"keep_empty": False, **rest})
    return open_source(OBJECTS, "voc", Request(split, root=str(root), options=options, **splits))


def message(root: Path | str, *arguments: Any, **rest: Any) -> str:
    with pytest.raises(UserError) as caught:
        opened(root, *arguments, **rest)
    line = str(caught.value)
    assert "\n" not in line
    return line


def write(path: Path, content: bytes = b"", image: str = "", size: tuple[int, int] = (20, 30)) -> None:
    """An XML file, and an image of (height, width) at ``image`` beside it or elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    save(path.parent / image, np.zeros((*size, 3), np.uint8))


def write_flat(root: Path) -> Path:
    """Two classes in flat folders: 20 × 30 pixels, a cat in all three, a dog in the first."""
    for number, (split, objects) in enumerate(
        [
            ("train", [("dog", [1, 1, 10, 20]), ("cat", [11, 2, 30, 19])]),
            ("train", [("cat", [5, 5, 9, 9])]),
            ("valid", [("cat", [3, 4, 8, 16])]),
        ]
    ):
        write(root / f"{split}/{number}.xml", voc_xml(f"{number}.jpg", (20, 30), objects), f"{number}.jpg")
    return root
