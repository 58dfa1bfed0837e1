"""What README.md shows: its Python blocks run as written, its commands parse, its keys, counts and links exist."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

import pvt_jax
from pvt_jax import config as config_lib
from pvt_jax import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "experiments/README.md")
SHRUNK = ["model.depths=(1,1,1,1)", "model.dims=(8,16,40,32)", "model.image_size=32", "steps=2"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def python_block(words: str) -> str:
    found = [block for block in blocks("python") if words in block]
    assert len(found) == 1, words
    return found[0]


WITH_PVT_JAX = python_block("pvt_jax.load_variables(")
WITH_ORBAX = python_block("saved = ocp.load_checkpointables(path)")
ELSEWHERE = python_block("SingleDeviceSharding")
WITH_NNX = python_block("nnx.bridge.ToNNX")
TRAINING = python_block("loop.train(")


def test_no_python_block_is_forgotten():
    assert len(blocks("python")) == len({WITH_PVT_JAX, WITH_ORBAX, ELSEWHERE, WITH_NNX, TRAINING})


# Run after the blocks, in the same process: the same random images through all of them, and what they showed.
COMPARE = """
import numpy
random = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
numpy.savez(
    "shown.npz",
    linen=model.apply(variables, random),
    orbax=model.apply({"params": orbax_params}, random),
    elsewhere=model.apply({"params": params}, random),
    nnx=nnx_model(random),
    features=[features.shape for features in maps.values()],
    expected_features=[(1, 64 // stride, 96 // stride, dim) for stride, dim in zip((4, 8, 16, 32), model.dims)],
    **{"params/" + jax.tree_util.keystr(k): v for k, v in jax.tree.leaves_with_path(variables["params"])},
)
assert result.step == 2 and "top1" in result.metrics
assert list(saved) == ["params", "opt_state"] and list(maps) == ["c2", "c3", "c4", "c5"]
assert logits.shape == nnx_logits.shape == (1, 10)
"""


def run(code: str, folder: Path, **environment: str) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=folder, env={**os.environ, **environment}, check=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with ``runs/digits``, made by the README's training block on a small model, and what the others gave."""
    folder = tmp_path_factory.mktemp("readme")
    training = TRAINING
    for shown, here in {
        '"configs/digits.py"': repr(str(ROOT / "configs/digits.py")),
        '["steps=200"]': repr(SHRUNK),
        '"runs/notebook"': repr("runs/digits"),
    }.items():
        assert training.count(shown) == 1
        training = training.replace(shown, here)
    assert WITH_PVT_JAX.count("256, 832") == 1
    blocks = [
        training,
        WITH_PVT_JAX.replace("256, 832", "64, 96"),
        WITH_ORBAX,
        "orbax_params = params\n",
        ELSEWHERE,
        WITH_NNX,
        COMPARE,
    ]
    # Compiling takes most of the time, and what is compiled runs twice.
    quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    run("".join(blocks), folder, PYTHONPATH=str(ROOT), XLA_FLAGS=quick, JAX_PLATFORMS="cpu")
    return folder


@pytest.fixture(scope="module")
def shown(folder):
    with np.load(folder / "shown.npz") as file:
        return dict(file)


def test_linen_orbax_and_nnx_give_the_same_logits(shown):
    assert shown["linen"].shape == (1, 10) and shown["linen"].dtype == np.float32 and np.ptp(shown["linen"]) > 0
    for way in ("orbax", "elsewhere", "nnx"):
        np.testing.assert_array_equal(shown[way], shown["linen"], err_msg=way)


def test_features_have_the_shown_sizes(shown):
    np.testing.assert_array_equal(shown["features"], shown["expected_features"])


def test_orbax_alone_restores_plain_dicts(folder, shown):
    report = (
        "import json, sys, numpy\nassert not {'pvt_jax', 'flax'} & set(sys.modules)\n"
        "json.dump(jax.tree.map(lambda leaf: list(leaf.shape), params), open('tree.json', 'w'))\n"
        "numpy.savez('alone.npz', **{jax.tree_util.keystr(k): v for k, v in jax.tree.leaves_with_path(params)})\n"
    )
    run(WITH_ORBAX + ELSEWHERE + report, folder, PYTHONPATH="", JAX_PLATFORMS="cpu")
    tree = json.loads((folder / "tree.json").read_text())
    assert tree["stage1"]["block0"]["attn"]["q"]["kernel"] == [8, 8]
    with np.load(folder / "alone.npz") as alone:
        assert {f"params/{name}" for name in alone} == {name for name in shown if name.startswith("params/")}
        for name in alone:
            np.testing.assert_array_equal(alone[name], shown[f"params/{name}"])


def test_a_checkpoint_of_more_devices_restores_on_one(tmp_path):
    path = tmp_path / "2"
    code = f"""
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp
places = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
params = {{"kernel": jax.device_put(np.arange(32.0).reshape(16, 2), places)}}
ocp.save_checkpointables({str(path)!r}, {{"params": params, "opt_state": params}})
"""
    run(code, tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=16", JAX_PLATFORMS="cpu")
    names: dict[str, Any] = {"ocp": ocp, "path": path}
    exec(ELSEWHERE, names)
    kernel = names["params"]["kernel"]
    assert kernel.devices() == {jax.devices()[0]}
    np.testing.assert_array_equal(kernel, np.arange(32.0).reshape(16, 2))


def commands() -> list[list[str]]:
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line.split("pvt_jax.main", 1)[1]) for line in lines if "-m pvt_jax.main" in line]


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_commands_name_real_configs_and_keys(arguments, tmp_path, monkeypatch):
    for half in ("train", "val"):
        (tmp_path / half / "cat").mkdir(parents=True)
    monkeypatch.chdir(ROOT)
    flags = main.parse([re.sub(r"\bFOLDER\b", str(tmp_path), word) for word in arguments])
    assert flags.overrides == [word.removeprefix("--config.") for word in arguments if word.startswith("--config.")]
    config = config_lib.load(flags.config, flags.overrides)
    pvt_jax.create_model(**config.model.to_dict())


def test_keys_in_the_text_exist():
    sections = [name for name, value in config_lib.defaults().items() if hasattr(value, "keys")]
    mentioned = set(re.findall(rf"(?:`|--config\.)((?:{'|'.join(sections)})\.[a-z_0-9]+)\b(?!\()", README))
    assert len(mentioned) >= 10
    for key in mentioned:
        section, _, last = key.partition(".")
        assert last in config_lib.defaults()[section] or hasattr(pvt_jax.create_model("pvt_tiny"), last), key


def test_table_names_every_model():
    table = dict(re.findall(r"^\| `(\w+)` +\| ([\d,]+) ", README, re.MULTILINE))
    assert sorted(table) == pvt_jax.list_models()
    for name in ("pvt_tiny", "pvt_small"):
        model = pvt_jax.create_model(name)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        assert table[name] == f"{sum(leaf.size for leaf in jax.tree.leaves(shapes)):,}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_link_to_what_exists_and_fit_the_page(document):
    path = ROOT / document
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (path.parent / target).exists(), target
    assert [line for line in text.splitlines() if len(line) > 120] == []
