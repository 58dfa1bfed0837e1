"""What README.md and docs/ show: Python blocks run as written, commands parse, keys, counts, files and links exist."""

import ast
import importlib.util
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet
import pytest
from orbax.checkpoint import v1 as ocp
from PIL import Image

import pvt_jax
from pvt_jax import benchmark, browse, compare, convert, export, main, predict, programs, summary, sweep, trace
from pvt_jax import config as config_lib
from pvt_jax.__main__ import COMMANDS
from pvt_jax.backbones import cost
from pvt_jax.data.formats.coco.json_file import read_coco
from pvt_jax.data.formats.folder import open_folder
from pvt_jax.data.records import Request
from pvt_jax.weights import names as names_lib
from pvt_jax.weights.files import write_safetensors
from pvt_jax.weights.known import KNOWN
from tests.helpers.symbolic import unchecked_signatures

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODELS = (ROOT / "docs/models.md").read_text(encoding="utf-8")
GET_STARTED = (ROOT / "docs/get_started.md").read_text(encoding="utf-8")
# docs/pages.py makes those of docs/results when the site is built.
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "results")]
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
# Their Python blocks are worked examples: files that a reader adds.
EXTEND = sorted((ROOT / "docs/extend").glob("*.md"))
SWEEPS = [path.with_name("README.md") for path in sorted((ROOT / "experiments").glob("*/sweep.py"))]
DOCUMENTS = [*PAGES, *SWEEPS, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "experiments/README.md"))]
# tests/test_models.py counts the parameters of all models; these suffice to see that the table is of the same numbers.
ONE_OF_EACH = ("pvt_tiny", "pvt_v2_b0", "mit_b1", "vit_tiny_patch16", "resnet18")
SHRUNK = ["model.depths=(1,1,1,1)", "model.dims=(8,16,40,32)", "model.image_size=32", "steps=2"]


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


EXAMPLES = {path.stem: blocks("python", path.read_text(encoding="utf-8")) for path in EXTEND}


def run_blocks() -> list[str]:
    return [block for block in blocks("python") if block not in sum(EXAMPLES.values(), [])]


def python_block(words: str) -> str:
    found = [block for block in run_blocks() if words in block]
    assert len(found) == 1, words
    return found[0]


SEGMENTATION = python_block("segmentation_model")
DETECTION = python_block("detector_variables")
WITH_PVT_JAX = python_block("runs/digits/config.json")
PRE_TRAINED = python_block("pretrained_variables")
NESTED = python_block("class Segmenter")
TRAINED = python_block("train_logits, changed")
ATTENTION = python_block("overlay_attention(")
WITH_ORBAX = python_block("saved = ocp.load_checkpointables(path)")
ELSEWHERE = python_block("SingleDeviceSharding")
WITH_NNX = python_block("nnx.bridge.ToNNX")
TRAINING = python_block("loop.train(")
PREDICTION = python_block("pvt_jax.Predictor")
EXPORTED = python_block("export.deserialize")
TABLE_OF_BOXES = python_block('"xmin"')
TABLE_OF_LABELS = python_block('row["label"]')
SWEEP = python_block("def get_sweep")
TUNING = python_block("Tuning(")


def test_no_python_block_is_forgotten():
    known = {SEGMENTATION, DETECTION, PRE_TRAINED, WITH_PVT_JAX, NESTED, ATTENTION, WITH_ORBAX, ELSEWHERE, WITH_NNX}
    known |= {TRAINED, TRAINING, PREDICTION, EXPORTED, TABLE_OF_BOXES, TABLE_OF_LABELS, SWEEP, TUNING}
    assert {*run_blocks()} == known


# Run after the blocks, in the same process: the same random images through all of them, and what they showed.
COMPARE = """
import sys
import numpy
assert "torch" not in sys.modules, "training imports what it does not need"
random = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
numpy.savez(
    "shown.npz",
    linen=model.apply(variables, random),
    # Placed as the others are, they share the programs of all operations.
    orbax=model.apply({"params": jax.device_put(orbax_params, here)}, random),
    elsewhere=model.apply({"params": params}, random),
    nnx=nnx_model(random),
    features=[features.shape for features in maps.values()],
    expected_features=[(1, 64 // stride, 96 // stride, dim) for stride, dim in zip((4, 8, 16, 32), model.dims)],
    **{"params/" + jax.tree_util.keystr(k): v for k, v in jax.tree.leaves_with_path(variables["params"])},
)
assert jax.tree.structure(segmenter_variables["params"]["backbone"]) == jax.tree.structure(variables["params"])
assert segmenter_logits.shape == train_logits.shape == (1, 16, 24, 5)
assert not changed and not (train_logits == segmenter_logits).all()
numpy.savez("attention.npz", weights=weights, picture=picture)
assert result.step == 2 and "top1" in result.metrics
assert list(saved) == ["params", "opt_state"] and list(maps) == ["c2", "c3", "c4", "c5"]
assert logits.shape == nnx_logits.shape == (1, 10)
assert best in list("0123456789") and drawn.shape[2] == 3
"""


def run(code: str, folder: Path, **environment: str) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=folder, env={**os.environ, **environment}, check=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with ``runs/digits``, made by the training block on a small model, and what the others gave."""
    folder = tmp_path_factory.mktemp("docs")
    training = TRAINING
    for shown, here in {'["steps=200"]': repr(SHRUNK), '"runs/notebook"': repr("runs/digits")}.items():
        assert training.count(shown) == 1
        training = training.replace(shown, here)
    # One small size for all of them: most of the time goes into compiling, and the sizes of a map are compiled apart.
    assert WITH_PVT_JAX.count("256, 832") == 1 and ATTENTION.count("(128, 96)") == 1
    colours = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    Image.fromarray(colours).resize((200, 150)).save(folder / "picture.jpg")
    blocks = [
        training,
        WITH_PVT_JAX.replace("256, 832", "64, 96"),
        NESTED,
        TRAINED,
        ATTENTION.replace("(128, 96)", "(96, 64)"),
        WITH_ORBAX,
        "orbax_params = params\n",
        ELSEWHERE,
        WITH_NNX,
        PREDICTION,
        COMPARE,
    ]
    run("".join(blocks), folder, PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu")
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


def test_the_overlay_is_the_picture_with_the_attention_on_it(folder):
    with np.load(folder / "attention.npz") as shown:
        weights, picture = shown["weights"], shown["picture"]
    assert weights.shape == (2, 3)
    np.testing.assert_allclose(weights.sum(), 1, atol=1e-5)
    overlay = np.asarray(Image.open(folder / "attention.png"))
    assert overlay.shape == picture.shape == (64, 96, 3)
    # The frame of the patch at row 8 of 16 and column 6 of 24: 4 pixels a side, one of white around it.
    assert (overlay[31, 23:29] == 255).all() and (overlay[31:37, 28] == 255).all()
    assert not (overlay[32:36, 24:28] == 255).all()


def test_pre_trained_weights_load_by_name_without_a_network_once_they_are_there(tmp_path, monkeypatch):
    model = pvt_jax.create_model("pvt_v2_b0")
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    published = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)
    write_safetensors(tmp_path / "pvt_v2_b0.pth", names_lib.to_state_dict(published))
    monkeypatch.setenv("PVT_JAX_CACHE", str(tmp_path))
    # These are not the published ones.
    monkeypatch.setitem(KNOWN, "pvt_v2_b0", replace(KNOWN["pvt_v2_b0"], size=None, sha256=None))
    names: dict[str, Any] = {}
    exec(PRE_TRAINED, names)
    found, expected = names["pretrained_variables"]["params"], published["params"]
    assert found["head"]["linear"]["kernel"].shape == (256, 10)
    del found["head"], expected["head"]
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_table_of_boxes_becomes_a_file_that_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = ["filename,class,xmin,ymin,xmax,ymax", "b.jpg,dog,1,2,11,22", "a.jpg,cat,0,0,5,6", "b.jpg,cat,3,3,9,8"]
    Path("train.csv").write_text("\r\n".join(rows), "utf-8-sig")
    exec(TABLE_OF_BOXES, {})
    file = read_coco("train.json", with_masks=False)
    assert file.image_files == ["b.jpg", "a.jpg"] and file.owners.tolist() == [0, 1, 0]
    assert [name for _, name, _ in file.categories] == ["dog", "cat"] and file.category_ids.tolist() == [0, 1, 1]
    assert file.boxes.tolist() == [[1, 2, 10, 20], [0, 0, 5, 6], [3, 3, 6, 5]]


def test_a_table_of_labels_becomes_folders_that_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    for name in "abc":
        Path(f"images/{name}.jpg").write_text(name)
    Path("train.csv").write_text("image,label\r\na.jpg,cat\r\nb.jpg,dog\r\nc.jpg,cat\r\n", "utf-8-sig")
    exec(TABLE_OF_LABELS, {})
    source = open_folder(Request("train", root="FOLDER"))
    assert source.class_names == ("cat", "dog")
    assert [(source[k]["image"], source[k]["label"]) for k in range(3)] == [(b"a", 0), (b"c", 0), (b"b", 1)]


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (SEGMENTATION, {"pixel_logits": (1, 24, 40, 21), "label_map": (1, 96, 160)}),
        (DETECTION, {"boxes": (1, 100, 4), "valid": (1, 100)}),
    ],
    ids=["segmentation", "detection"],
)
def test_a_dense_model_gives_what_the_text_says(block, expected):
    """The shapes alone: compiling the program takes longer than all of this file's other tests of shapes."""

    def traced(zeros: Any) -> dict[str, Any]:
        names: dict[str, Any] = {}
        exec(block, names)
        return {name: names[name] for name in expected}

    shapes = jax.eval_shape(traced, jnp.zeros(()))
    assert {name: leaf.shape for name, leaf in shapes.items()} == expected


def test_known_names_are_those_that_the_text_describes():
    own = {name for name in pvt_jax.list_models() if name != "pvt_huge_v2" and not name.startswith("vit_")}
    deit = {f"deit_{size}" for size in ("tiny", "small", "base")}
    timm = {f"timm/{name}.in1k" for name in pvt_jax.list_models() if name.startswith("pvt_v2")}
    segmenters = {f"segformer_b{size}_ade" for size in (0, 1, 2, 5)}
    models = ("pvt_tiny", "pvt_small", "pvt_medium", *(f"pvt_v2_b{size}" for size in range(6)))
    detectors = {f"retinanet_{name}_coco" for name in models}
    assert set(KNOWN) == own | deit | timm | segmenters | detectors
    assert {name for name, known in KNOWN.items() if known.head} == segmenters | detectors
    for name in detectors:
        assert name == f"{KNOWN[name].head}_{KNOWN[name].model}_coco"
    for name in own:
        assert KNOWN[name].model == name
    for name in deit:
        assert KNOWN[name].model == name.replace("deit", "vit") + "_patch16"


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


# Runs before the block: nothing of this package or Flax may be imported.
ALONE = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pvt_jax", "flax", "orbax"):
            raise ImportError(name)
sys.meta_path.insert(0, Refused())
"""


def test_an_export_runs_with_jax_alone(folder):
    with unchecked_signatures():
        assert export.main([str(folder / "runs/digits"), str(folder / "digits.zip"), "--platforms", "cpu"]) == 0
    shown = EXPORTED.replace("np.zeros(", "np.random.default_rng(0).integers(0, 256, ")
    assert shown != EXPORTED
    run(
        f"{ALONE}{shown}\nnp.savez('exported.npz', images=images, **outputs)",
        folder,
        PYTHONPATH="",
        JAX_PLATFORMS="cpu",
    )
    with np.load(folder / "exported.npz") as file:
        assert file["images"].shape == (2, 32, 32, 3) and file["images"].dtype == np.uint8
        logits, probabilities = file["logits"], file["probabilities"]
        found = pvt_jax.Predictor(folder / "runs/digits")(list(file["images"]))
    np.testing.assert_allclose(logits, [one.arrays["logits"] for one in found], atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)


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


def shell_lines() -> list[str]:
    return "".join(blocks("sh")).replace("\\\n", " ").splitlines()


def commands(module: str) -> list[list[str]]:
    """The arguments of each command of a module. A command that several pages show counts once."""
    lines = dict.fromkeys(line.split(f"-m {module} ", 1)[1] for line in shell_lines() if f"-m {module} " in line)
    found = [shlex.split(line) for line in lines]
    for line in dict.fromkeys(shell_lines()):
        name, *words = shlex.split(line.removeprefix("pvt_jax ")) if line.startswith("pvt_jax ") else [""]
        if name and COMMANDS[name].module == module:
            found.append([*COMMANDS[name].settled, *words])
    return found


# Patterns of what else a shell block may show.
OTHER_COMMANDS = (
    r"git clone … && cd pvt_jax",
    r"source \.venv/bin/activate",
    r'pip install "jax\[(cuda12|cuda13|tpu)\]" +# .*',
    r"pip install (\.|'\.\[\w+\]')",
    r"hf upload USER/REPO for_the_hub",
)


def test_every_command_is_checked():
    targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
    modules = set()
    for line in shell_lines():
        if line.startswith("make "):
            assert line.split()[1] in targets, line
        elif line.startswith("pip install -r "):
            assert all((ROOT / name).exists() for name in line.split() if name.startswith("requirements")), line
        elif module := re.match(r"(?:srun [-\w= ]+ )?(?:\.venv/bin/)?python -m (pvt_jax[\w.]*) ", line):
            modules.add(module[1])
        elif line.startswith("pvt_jax "):
            modules.add(COMMANDS[line.split()[1]].module)
        else:
            assert any(re.fullmatch(pattern, line) for pattern in OTHER_COMMANDS), line
    # tests/data/formats check the last: it needs archives of ImageNet.
    assert modules == {
        "pvt_jax.main",
        "pvt_jax.convert",
        "pvt_jax.summary",
        "pvt_jax.benchmark",
        "pvt_jax.prepare",
        "pvt_jax.compare",
        "pvt_jax.browse",
        "pvt_jax.predict",
        "pvt_jax.export",
        "pvt_jax.sweep",
    }


def test_extras_are_those_of_the_package():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    shown = set(re.findall(r"'\.\[(\w+)\]'", TEXT))
    assert shown and shown <= extras.keys()
    # It is on no index.
    assert not re.findall(r"pip install ['\"]?pvt_jax", TEXT)


def test_the_sweep_is_one(tmp_path, monkeypatch, capsys):
    file = tmp_path / "experiments" / "drop_path" / "sweep.py"
    file.parent.mkdir(parents=True)
    file.write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    (arguments,) = commands("pvt_jax.sweep")
    flags = ["--only", "usual", "n*", "--seeds", "0,1", "--config.data.root=/data/imagenet", "--list"]
    assert sweep.main([*arguments, *flags]) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"{arm}, seed {seed}" for arm in ("none", "usual") for seed in (0, 1)
    ]
    found: dict[str, Any] = {}
    exec(TUNING, found)
    assert found["tuning"].steps == (100, 300)


@pytest.mark.parametrize("arguments", commands("pvt_jax.main"), ids=" ".join)
def test_commands_name_real_configs_and_keys(arguments, tmp_path, monkeypatch):
    is_divided = not any("data.holdout" in word for word in arguments)
    for half in ("train", "val") if is_divided else ("train",):
        for name in ("cat", "dog"):
            (tmp_path / half / name).mkdir(parents=True)
    if "--config.data.source=metadata" in arguments:
        (tmp_path / "train/x.jpg").write_bytes(b"")
        (tmp_path / "train/metadata.csv").write_text("file_name,label\nx.jpg,cat\n")
    if "--config.data.source=parquet" in arguments:
        table = pyarrow.table({"image": [b""], "label": ["cat"]})
        pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    if "--config.data.source=labelme" in arguments:
        (tmp_path / "train/x.jpg").write_bytes(b"")
        (tmp_path / "train/x.json").write_text('{"imagePath": "x.jpg", "flags": {}, "shapes": []}')
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    boxes = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "train.json").write_text(json.dumps(boxes))
    monkeypatch.chdir(ROOT)
    flags = main.parse([re.sub(r"\b(FOLDER|TEST)\b", str(tmp_path), word) for word in arguments])
    assert flags.overrides == [word.removeprefix("--config.") for word in arguments if word.startswith("--config.")]
    config = config_lib.load(flags.config, flags.overrides)
    head = config.head.to_dict()
    pvt_jax.create_model(**config.model.to_dict(), head=head.pop("name"), head_settings=head)


@pytest.mark.parametrize("arguments", commands("pvt_jax.convert"), ids=" ".join)
def test_conversions_name_real_models_and_flags(arguments):
    flags = convert.parse([re.sub(r"\bNAME\b", "pvt_tiny", word) for word in arguments])
    pvt_jax.create_model(flags.model, **flags.settings)


@pytest.mark.parametrize("arguments", commands("pvt_jax.summary"), ids=" ".join)
def test_summaries_name_real_models_and_flags(arguments):
    pvt_jax.create_model(summary.parse(arguments).name)


@pytest.mark.parametrize("arguments", commands("pvt_jax.benchmark"), ids=" ".join)
def test_benchmarks_name_real_models_and_flags(arguments):
    flags = benchmark.parse(arguments)
    programs.subject(flags.model, flags.head, image_size=flags.image_size, settings=flags.settings)


@pytest.mark.parametrize("arguments", commands("pvt_jax.browse"), ids=" ".join)
def test_sheets_have_real_configs_and_flags(arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    flags = browse.parse(arguments)
    config_lib.load(flags.config, flags.overrides)


@pytest.mark.parametrize("arguments", commands("pvt_jax.predict"), ids=" ".join)
def test_predictions_have_real_flags(arguments):
    flags = predict.parse(arguments)
    assert flags.paths and flags.output
    if flags.model:
        pvt_jax.create_model(flags.model, head=flags.head, **flags.settings)


@pytest.mark.parametrize("arguments", commands("pvt_jax.export"), ids=" ".join)
def test_exports_have_real_flags(arguments):
    assert export.parse(arguments).file


@pytest.mark.parametrize("arguments", commands("pvt_jax.compare"), ids=" ".join)
def test_comparisons_have_real_flags(arguments):
    assert compare.parse(arguments).runs


def test_keys_in_the_text_exist():
    sections = [name for name, value in config_lib.defaults().items() if hasattr(value, "keys")]
    key = rf"(?:{'|'.join(sections)})\.(?!(?:py|json|yaml)\b)[a-z_0-9]+"
    mentioned = set(re.findall(rf"(?:`|--config\.)({key})\b(?!\()", TEXT))
    assert len(mentioned) >= 10
    models: list[Any] = [pvt_jax.create_model(name) for name in ("pvt_tiny", "pvt_v2_b0", "resnet18")]
    models += [pvt_jax.create_model("pvt_tiny", head=name).head for name in pvt_jax.list_heads()]
    for key in mentioned:
        section, _, last = key.partition(".")
        assert last in config_lib.defaults()[section] or any(hasattr(model, last) for model in models), key


TABLE = {
    name: rest
    for name, *rest in re.findall(
        r"^\| `(\w+)` +\| +([\d,]+) \| +([\d.]+) \| +(\S+) \| (\S+) +\|$", MODELS, re.MULTILINE
    )
}


def expanded(names: str) -> list[str]:
    """Names in backticks, with ``{a,b}`` written out as a shell does."""
    found = re.findall(r"`([^`]+)`", names)
    while any("{" in name for name in found):
        parts = [re.fullmatch(r"(.*?)\{(.*?)\}(.*)", name) for name in found]
        found = [
            text
            for name, part in zip(found, parts, strict=True)
            for text in ([part[1] + choice + part[3] for choice in part[2].split(",")] if part else [name])
        ]
    return found


def test_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_readme_has_the_ranges_of_the_table():
    rows = re.findall(r"^\| \w[^|]*\| (`[^|]*) +\| +(\S+) \| +(\S+) \|$", README, re.MULTILINE)
    assert sorted(name for names, *_ in rows for name in expanded(names)) == pvt_jax.list_models()
    for names, *ranges in rows:
        counts = [f"{int(TABLE[name][0].replace(',', '')) / 1e6:.1f}" for name in expanded(names)]
        accuracies = [TABLE[name][2] for name in expanded(names) if TABLE[name][2] != "–"]
        shown = [
            "–".join(f(values, key=float) for f in (min, max)) if values else "–" for values in (counts, accuracies)
        ]
        assert ranges == shown, names


def measured(text: str) -> list[tuple[str, str]]:
    """(config, what a page says that it reached): the sentence after its command, and rows of a table of configs."""
    found = re.findall(r"^\| `(\w+\.py(?::\w+)?)` +\|(.*)\|$", text, re.MULTILINE)
    parts = re.split(r"^(make train|.*-m pvt_jax\.main --config .*)$", text, flags=re.MULTILINE)
    for command, after in zip(parts[1::2], parts[2::2], strict=True):
        if said := re.search(r"It reached .*?\.(?=\s)", after, re.DOTALL):
            spec = re.search(r"configs/(\S+)", command)
            found.append((spec[1] if spec else "digits.py", " ".join(said[0].split())))
    return found


@pytest.mark.parametrize(("text", "configs"), [(README, 2), (GET_STARTED, 4)], ids=["README", "get_started"])
def test_what_a_page_says_that_a_config_reached_is_in_its_docstring(text, configs):
    """The docstring is the source: who measures anew writes there, and this fails until the pages follow."""
    found = measured(text)
    assert len(found) == configs
    for spec, said in found:
        path = ROOT / "configs" / spec.partition(":")[0]
        docstring = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").replace("_", " ").split())
        numbers = re.findall(r"(?:mask )?AP50 \d+\.\d|\d+\.\d", said)
        assert numbers, said
        for number in numbers:
            assert re.search(rf"(?<!mask )(?<![\d.])\b{number}(?!\d)", docstring), (spec, number)
        for minutes in re.findall(r"(\d+) minutes", said):
            assert re.search(rf"\bTime: [^.]*\b{minutes}\b", docstring), (spec, minutes)


@pytest.mark.parametrize("text", [README, MODELS], ids=["README", "models"])
def test_heads_are_all_there(text):
    rows = re.findall(r"^\|(.*(?:segmentation|detection) .*)\|$", text, re.MULTILINE)
    assert sorted(name for row in rows for name in expanded(row)) == pvt_jax.list_heads()


def test_table_names_every_model():
    assert sorted(TABLE) == pvt_jax.list_models()


@pytest.mark.parametrize("name", TABLE)
def test_table_counts_what_the_code_counts(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    parameters, giga_macs, _, link = TABLE[name]
    model = pvt_jax.create_model(name)
    macs = sum(part.total for part in cost.multiply_accumulates(model, 224, 224).values())
    assert giga_macs == f"{macs / 1e9:.2f}"
    if name in ONE_OF_EACH:
        variables = trace.abstract_variables(model, 224, 224)
        assert parameters == f"{sum(leaf.size for leaf in jax.tree.leaves(variables['params'])):,}"
    if link != "–":
        spec, path = re.fullmatch(r"\[(\S+)\]\((\S+)\)", link).groups()  # pyright: ignore
        assert path == f"../configs/{spec.partition(':')[0]}"
        assert config_lib.load(f"configs/{spec}").model.name == name


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(pvt_jax(?:\.\w+)+)", TEXT))))
def test_names_in_the_text_exist(name):
    pkgutil.resolve_name(name)


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_examples_import_what_exists(name):
    """Each block begins with the path of its file, parses, and imports what is here or what another block shows."""
    shown = {block.split()[1] for block in EXAMPLES[name] if block.startswith("# ")}
    for block in EXAMPLES[name]:
        assert re.match(r"# [\w/]+\.py\b", block), block
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pvt_jax"):
                path = str(node.module).replace(".", "/")
                if {f"{path}.py", f"{path}/__init__.py"} & shown:
                    continue
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    submodule = {f"{path}/{alias.name}.py", f"{path}/{alias.name}/__init__.py"} & shown
                    found = submodule or hasattr(module, alias.name)
                    assert found or importlib.util.find_spec(f"{node.module}.{alias.name}"), ast.unparse(node)


def anchors(path: Path) -> set[str]:
    """What can be linked to in a page: its headings, as GitHub and MyST write them in links."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_link_to_what_exists_and_fit_the_page(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target
    for name in re.findall(r"`((?:pvt_jax|configs|docs|tests|experiments)/[\w/.]+)`", text):
        # NAME stands for what a reader adds; the changelog names what was.
        assert path.name == "CHANGELOG.md" or (ROOT / name.partition("NAME")[0]).exists(), name
    # A row of a table is one line.
    assert [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")] == []


def test_every_page_is_in_the_contents():
    listed = set()
    for index in (ROOT / "docs").rglob("index.md"):
        for tree in re.findall(r"^```{toctree}\n(.*?)^```$", index.read_text(), re.MULTILINE | re.DOTALL):
            names = [line for line in tree.splitlines() if line and not line.startswith((":", "results/"))]
            pages = [index.parent / f"{name}.md" for name in names]
            listed |= {page if page.exists() else page.with_suffix(".ipynb") for page in pages}
    written = {*PAGES[1:], *(ROOT / "docs").rglob("*.ipynb")}
    assert listed == written - {ROOT / "docs/index.md"}
