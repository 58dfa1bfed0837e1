"""The worked examples of docs/extend: added to a copy of the package, they train, and their weights are read back."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs/extend").glob("*.md"))

# Two steps of each on few and small images, in one process; then its weights through a file with the reference's names.
TRAIN = """
import csv
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import pvt_jax
from pvt_jax import config, convert, summary
from pvt_jax.data.formats.digits import scenes
from pvt_jax.data.formats.digits.images import DigitsSource
from pvt_jax.training import loop

scenes._COUNTS = {"train": 16, "eval": 4}
RUN = ["steps=2", "batch_size=4", "evaluation.batch_size=4", "data.threads=2", "optimizer.warmup_steps=1"]
DENSE = ["model.name=pvt_v2_b0", "model.dims=(8,16,40,32)", "model.depths=(1,1,1,1)", "init.checkpoint="]
SWIN = {"depths": (2, 1, 1, 1), "dims": (12, 24, 48, 96)}


def train(file, name, *overrides):
    result = loop.train(config.load(f"configs/{file}.py", [*RUN, *overrides]), f"runs/{name}", quiet=True)
    assert result.step == 2
    return result.metrics


def there_and_back(name, settings, *flags):
    assert convert.main([f"runs/{name}", f"{name}.safetensors"]) == 0
    assert convert.main([f"{name}.safetensors", f"weights/{name}", *flags]) == 0
    model = pvt_jax.create_model(**settings)
    first, second = (pvt_jax.load_variables(place, model) for place in (f"runs/{name}", f"weights/{name}"))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def table():
    Path("table/digits").mkdir(parents=True)
    for split, name, count in (("train", "train", 20), ("eval", "val", 6)):
        source = DigitsSource(split)
        lines = []
        for number in range(count):
            record = source[number]
            Image.fromarray(record["image"]).save(f"table/digits/{name}{number}.png")
            lines.append((f"digits/{name}{number}.png", f"digit {record['label']}"))
        with open(f"table/{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows(lines)
    return len({label for _, label in lines})


if sys.argv[1] == "format":
    table()
    assert "top1" in train("digits", "format", "model.depths=(1,1,1,1)", "model.dims=(8,16,40,32)",
                           "data.source=csv_table", "data.root=table")
elif sys.argv[1] == "backbone":
    whole = pvt_jax.create_model("swin_tiny")
    report = summary.measure(whole, (224, 224), 1)
    assert report["counts_agree"] and report["parameters"] == 28_288_354
    assert "top1" in train("digits", "backbone", "model.name=swin_tiny", "optimizer.layer_decay=0.9",
                           *(f"model.{key}={value}" for key, value in SWIN.items()))
    sizes = [word for key, value in SWIN.items() for word in ("--set", f"{key}={value}".replace(" ", ""))]
    model = {"name": "swin_tiny", "num_classes": 10, "image_size": 32, **SWIN}
    there_and_back("backbone", model, "--model", "swin_tiny", *sizes)
    # The maps of a padded image are those that it has alone; scanned and recomputed blocks give the same.
    model, images = pvt_jax.create_model(**model), jax.random.normal(jax.random.key(0), (1, 64, 96, 3))
    variables = pvt_jax.load_variables("runs/backbone", model)

    def features(images, sizes=None, **options):
        apply = model.clone(**options).apply
        return jax.jit(lambda images, sizes: apply(variables, images, sizes=sizes, method="features"))(images, sizes)

    alone, padded = features(images[:, :, :64]), features(images, jnp.array([[64, 64]]))
    for level, maps in alone.items():
        assert maps.std() > 0
        np.testing.assert_allclose(padded[level][:, :, : maps.shape[2]], maps, atol=1e-5)
        np.testing.assert_allclose(features(images[:, :, :64], scan=True)[level], maps, atol=1e-5)
elif sys.argv[1] == "head":
    settings = {"channels": 8, "num_convs": 1, "neck_channels": 8}
    assert "AP50" in train("digits_detection", "head", *DENSE, "head.name=fcos",
                           *(f"head.{key}={value}" for key, value in settings.items()))
    flags = ["--set", "dims=8,16,40,32", "--set", "depths=1,1,1,1"]
    flags += [word for key, value in settings.items() for word in ("--set", f"head.{key}={value}")]
    model = {"name": "pvt_v2_b0", "num_classes": 10, "dims": (8, 16, 40, 32), "depths": (1, 1, 1, 1)}
    model |= {"head": "fcos", "head_settings": settings}
    there_and_back("head", model, "--model", "pvt_v2_b0", "--head", "fcos", *flags)
else:
    Path("configs/depth.py").write_text(
        "def get_config(arg=''):\\n"
        "    return {'task': 'depth', 'head': {'name': 'segformer', 'channels': 8},\\n"
        "            'data': {'source': 'digit_scenes'}, 'model': {'num_classes': 1, 'image_size': 128}}\\n"
    )
    metrics = train("depth", "task", *DENSE, "depth.variance_weight=0.5")
    assert {"abs_rel", "rmse", "delta1"} == metrics.keys()
"""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n# (.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def patched(text: str, diff: str) -> str:
    for hunk in diff.split("@@\n"):
        lines = hunk.splitlines()
        before, after = (
            "\n".join(line[1:] for line in lines if not line.startswith(without)) for without in ("+", "-")
        )
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_worked_example_runs_as_it_stands(page, tmp_path):
    """One folder or module, one row, and nothing else of the package is touched."""
    for folder in ("pvt_jax", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    files = dict(block.split("\n", 1) for block in blocks(page, "python"))
    rows = dict(block.split("\n", 1) for block in blocks(page, "diff"))
    assert files and len(rows) == 1
    for name, text in files.items():
        assert not (tmp_path / name).exists(), f"{name} is there already"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    for name, diff in rows.items():
        file = tmp_path / name
        file.write_text(patched(file.read_text(encoding="utf-8"), diff), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, page.stem], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
