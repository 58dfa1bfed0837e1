"""``python -m pvt_jax.convert``: every pair of formats, bit for bit, and nothing half done."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

import pvt_jax
from pvt_jax import convert
from pvt_jax.errors import UserError
from pvt_jax.training import store
from pvt_jax.training.store import CheckpointStore
from pvt_jax.weights import names
from pvt_jax.weights.files import read_metadata, read_state_dict, write_safetensors
from tests.helpers import dense_toys, reference, state_dicts, torch_files
from tests.helpers.command import ROOT

# The flags that make the small models of state_dicts.
PVT = ["--model=pvt_tiny", "--set=depths=2,1,1,1", "--set=dims=8,16,40,32", "--set=num_heads=1,2,5,4"]
RESNET = ["--model=resnet18", "--set=depths=2,1,1,1", "--set=dims=8,16,24,32"]
VIT = ["--model=vit_tiny_patch16", "--set=depth=2", "--set=dim=16", "--set=num_heads=2"]
FLAGS = {"pvt": PVT, "resnet basic": RESNET, "vit": VIT}


def tensors_of(family):
    """A state dict with numbers that arithmetic would change: the largest, a subnormal one, and -0.0."""
    tensors = state_dicts.weights(state_dicts.shapes(family))
    for tensor in tensors.values():
        if tensor.dtype == np.float32 and tensor.size > 4:
            tensor.view(np.uint32).flat[:4] = (0x7F7FFFFF, 0xFF7FFFFF, 0x00012345, 0x80000000)
    return tensors


def write_torch(path, tensors):
    path.write_bytes(torch_files.zip_bytes({name: torch_files.tensor(array) for name, array in tensors.items()}))
    return path


def converted(*flags) -> None:
    assert convert.main([str(flag) for flag in flags]) == 0


def refused(capfd, *flags) -> str:
    capfd.readouterr()
    assert convert.main([str(flag) for flag in flags]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
    return err


def assert_same_bits(path, expected):
    found = read_state_dict(path)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape, name
        assert found[name].tobytes() == tensor.tobytes(), name


def left_over(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("family", FLAGS)
def test_there_and_back_bit_for_bit(family, tmp_path, capfd):
    tensors = tensors_of(family)
    source = write_torch(tmp_path / "w.pth", tensors)
    converted(source, tmp_path / "orbax", *FLAGS[family])
    out = capfd.readouterr().out.splitlines()
    assert out[0] == f"{source} (reference names): {len(names.flatten(expected(family)))} parameters loaded"
    assert out[1].startswith(
        f"wrote {tmp_path / 'orbax'}: name {state_dicts.TOYS[family][0]}, num_classes 5, image_size "
    )
    converted(tmp_path / "orbax", tmp_path / "back.safetensors", *FLAGS[family])
    assert_same_bits(tmp_path / "back.safetensors", tensors)
    converted(source, tmp_path / "direct.safetensors", *FLAGS[family])
    assert_same_bits(tmp_path / "direct.safetensors", tensors)
    assert left_over(tmp_path) == {"w.pth", "orbax", "back.safetensors", "direct.safetensors"}


def expected(family):
    return state_dicts.expected(state_dicts.toy(family))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """(converted folder, tensors) of the small ResNet, which has batch statistics."""
    root = tmp_path_factory.mktemp("converted")
    tensors = state_dicts.weights(state_dicts.shapes("resnet basic"))
    converted(write_torch(root / "w.pth", tensors), root / "resnet", *RESNET, "--image_size", 64, 96)
    return root / "resnet", tensors


def test_the_folder_serves_the_library_and_orbax_alone(folder):
    place, tensors = folder
    config = json.loads((place / "config.json").read_text())
    assert config["model"] == {
        **{"name": "resnet18", "num_classes": 5, "image_size": [64, 96]},
        **{"depths": [2, 1, 1, 1], "dims": [8, 16, 24, 32]},
    }
    variables = pvt_jax.load_variables(place, pvt_jax.create_model(**config["model"]))
    for name, tensor in names.to_state_dict(variables).items():
        np.testing.assert_array_equal(tensor, tensors[name], err_msg=name)
    alone = ocp.load_checkpointables(str(place / "checkpoints" / "0"))
    kernel = np.asarray(alone["params"]["stem"]["conv"]["kernel"])
    np.testing.assert_array_equal(kernel, tensors["conv1.weight"].transpose(2, 3, 1, 0))
    mean = np.asarray(alone["batch_stats"]["stem"]["norm"]["mean"])
    np.testing.assert_array_equal(mean, tensors["bn1.running_mean"])


def test_a_run_needs_no_model_flags(folder, tmp_path, capfd):
    """Name, classes, image size and the other settings are in its config.json."""
    path = tmp_path / "out" / "w.safetensors"
    converted(folder[0], path)
    assert_same_bits(path, folder[1])
    assert read_metadata(path) == {"model": "resnet18", "image_size": "[64, 96]", "format": "pt"}
    assert "depths (2, 1, 1, 1)" in capfd.readouterr().out
    converted(folder[0], tmp_path / "same.safetensors", "--model=resnet18")
    assert_same_bits(tmp_path / "same.safetensors", folder[1])


def test_the_settings_of_a_run_belong_to_its_model(folder, tmp_path, capfd):
    line = refused(capfd, folder[0], tmp_path / "out", "--model=resnet34")
    assert "It looks like a resnet of depths (2, 1, 1, 1) and dims (8, 16, 24, 32)" in line
    assert left_over(tmp_path) == set()


def test_the_moving_average_of_a_run(tmp_path, capfd):
    model = state_dicts.toy("vit")
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), expected("vit"))["params"]
    run = CheckpointStore(tmp_path / "run" / "checkpoints")
    run.save(7, {"params": params, "ema_params": jax.tree.map(lambda leaf: leaf + 1, params)})
    run.close()
    flags = [*VIT, "--num_classes=5"]
    converted(tmp_path / "run", tmp_path / "plain.safetensors", *flags)
    converted(tmp_path / "run", tmp_path / "average", *flags, "--ema")
    assert not any(tensor.any() for tensor in read_state_dict(tmp_path / "plain.safetensors").values())
    average = pvt_jax.load_variables(tmp_path / "average", model)
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(average))
    assert "has no ema_params" in refused(capfd, tmp_path / "average", tmp_path / "x", *flags, "--ema")


def test_classes_and_image_size_are_the_file_s_own_or_the_flags(tmp_path, capfd):
    source = write_torch(tmp_path / "w.pth", state_dicts.weights(state_dicts.shapes("vit")))
    converted(source, tmp_path / "same", *VIT)
    settings = json.loads((tmp_path / "same" / "config.json").read_text())["model"]
    assert (settings["num_classes"], settings["image_size"]) == (5, [64, 64])
    capfd.readouterr()
    converted(source, tmp_path / "other.safetensors", *VIT, "--num_classes", 7, "--image_size", 96, 32)
    out = capfd.readouterr().out
    assert "a new classifier, randomly initialised, for other classes (5 → 7)" in out and "pos_embed 4×4 → 6×2" in out
    found = read_state_dict(tmp_path / "other.safetensors")
    assert found["head.weight"].shape == (7, 16) and found["pos_embed"].shape == (1, 13, 16)
    # What was written says that its grid is not square, and so goes on unchanged.
    converted(tmp_path / "other.safetensors", tmp_path / "again.safetensors", *VIT)
    assert_same_bits(tmp_path / "again.safetensors", found)


def test_exceptions_are_listed(tmp_path, capfd):
    tensors = state_dicts.weights(state_dicts.shapes("pvt"))
    backbone = {f"backbone.{name}": t for name, t in tensors.items() if name.split(".")[0] not in ("norm", "head")}
    source = tmp_path / "detector.pth"
    write_torch(source, {**backbone, "backbone.extra": np.zeros(3, np.float32), "neck.bias": np.zeros(3, np.float32)})
    line = refused(capfd, source, tmp_path / "out", *PVT)
    assert "4 missing: params/head/linear/bias" in line and "1 unexpected: backbone.extra" in line
    converted(source, tmp_path / "out", *PVT, "--allow_missing", "head/*", "norm/*", "--allow_unexpected", "*.extra")
    assert "of other modules, unused: neck (1)" in capfd.readouterr().out
    settings = json.loads((tmp_path / "out" / "config.json").read_text())["model"]
    assert settings["num_classes"] == 1000, "a file without a classifier says nothing of classes"


def test_a_known_name_brings_its_model(tmp_path, monkeypatch):
    from pvt_jax.weights import load

    tensors = state_dicts.weights(state_dicts.shapes("vit"))
    source = write_torch(tmp_path / "w.pth", tensors)
    known = type("Known", (), {"model": "vit_tiny_patch16", "head": ""})
    monkeypatch.setattr(load, "KNOWN", {"toy": known})
    monkeypatch.setattr(load, "fetch_known", lambda name: source)
    converted("toy", tmp_path / "w.safetensors", *VIT[1:])
    assert_same_bits(tmp_path / "w.safetensors", tensors)


# Dense models.

MIT = [flag.replace("pvt_tiny", "mit_b0") for flag in PVT]
SEMANTIC_FPN = [*PVT, "--head=semantic_fpn", "--set=head.channels=12", "--set=head.neck_channels=24"]
SEGFORMER = [*MIT, "--head=segformer", "--set=head.channels=20"]
DENSE = {("pvt", "semantic_fpn"): SEMANTIC_FPN, ("mit", "segformer"): SEGFORMER}


@pytest.mark.parametrize(("family", "head"), DENSE)
def test_a_dense_model_there_and_back_bit_for_bit(family, head, tmp_path, capfd):
    tensors = dense_toys.weights(family, head)
    for tensor in tensors.values():
        if tensor.dtype == np.float32 and tensor.size > 4:
            tensor.view(np.uint32).flat[:4] = (0x7F7FFFFF, 0xFF7FFFFF, 0x00012345, 0x80000000)
    converted(write_torch(tmp_path / "w.pth", tensors), tmp_path / "orbax", *DENSE[family, head])
    config = json.loads((tmp_path / "orbax" / "config.json").read_text())
    assert config["task"] == "segmentation" and config["head"] == {"name": head, **dense_toys.SETTINGS[head][0]}
    assert config["model"]["num_classes"] == 7 and "head" not in config["model"]
    # A run needs no flags: name, head, sizes and classes are in its config.json.
    converted(tmp_path / "orbax", tmp_path / "back.safetensors")
    assert_same_bits(tmp_path / "back.safetensors", tensors)
    assert read_metadata(tmp_path / "back.safetensors")["head"] == head
    model = dense_toys.toy(family, head)
    variables = pvt_jax.load_variables(tmp_path / "orbax", model)
    assert names.flatten(variables["batch_stats"]).keys() >= {
        "head/norm/count" if head == "segformer" else "head/branch_p2/norm0/count"
    }
    capfd.readouterr()
    converted(tmp_path / "orbax", tmp_path / "other", "--num_classes=4")
    assert "a new classifier, randomly initialised, for other classes (7 → 4)" in capfd.readouterr().out


def test_a_dense_file_names_its_head(tmp_path, capfd):
    tensors = dense_toys.weights("mit", "segformer")
    source = write_torch(tmp_path / "w.pth", tensors)
    line = refused(capfd, source, tmp_path / "out", *MIT)
    assert "w.pth has a head: give it with --head segformer, which it looks like. Or load the backbone" in line
    line = refused(capfd, source, tmp_path / "out")
    assert "it looks like a pvt_v2 of depths (2, 1, 1, 1) and dims (8, 16, 40, 32) with a segformer head" in line
    line = refused(capfd, source, tmp_path / "out", *MIT, "--head=semantic_fpn")
    assert "w.pth has no semantic_fpn head: give the number of classes of the new one with --num_classes" in line
    line = refused(capfd, source, tmp_path / "out", *MIT, "--head=semantic_fpn", "--num_classes=7")
    assert "with a segformer head: create that model" in line
    assert "unknown head 'segforme'" in refused(
        capfd, source, tmp_path / "out", *MIT, "--head=segforme", "--num_classes=7"
    )
    assert "use --head instead of" in refused(capfd, source, tmp_path / "out", *MIT, "--set=head=segformer")
    assert "has no setting 'chanels': did you mean 'channels'" in refused(
        capfd, source, tmp_path / "out", *MIT, "--head=segformer", "--set=head.chanels=20"
    )
    assert left_over(tmp_path) == {"w.pth"}


def test_the_backbone_of_a_dense_model_becomes_a_classifier(tmp_path, capfd):
    tensors = dense_toys.weights("mit", "segformer")
    source = write_torch(tmp_path / "w.pth", tensors)
    converted(source, tmp_path / "run", *SEGFORMER)
    for place, flags in ((source, [*MIT, "--num_classes=5"]), (tmp_path / "run", ["--head=", "--num_classes=5"])):
        out = tmp_path / f"{place.stem}.safetensors"
        converted(place, out, *flags, "--allow_missing", "head/*")
        found = read_state_dict(out)
        kept = {name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")}
        assert found.keys() == kept.keys() | {"head.weight", "head.bias"}
        assert all(found[name].tobytes() == tensor.tobytes() for name, tensor in kept.items())
        assert found["head.weight"].shape == (5, 32)


def test_a_head_for_a_classifier_s_backbone(tmp_path, capfd):
    source = write_torch(tmp_path / "w.pth", state_dicts.weights(state_dicts.shapes("mit")))
    assert "w.pth has no segformer head: give the number of classes" in refused(
        capfd, source, tmp_path / "out", *SEGFORMER
    )
    converted(source, tmp_path / "out", *SEGFORMER, "--num_classes=7")
    assert "; a backbone; head newly initialised; of other modules, unused: head (2)" in capfd.readouterr().out


# Detectors.

NECK = "--set=head.neck_channels=24"
RETINANET = [*PVT, "--head=retinanet", "--set=head.channels=12", "--set=head.num_convs=2", NECK]
FASTER_RCNN = [*PVT, "--head=faster_rcnn", "--set=head.channels=12", "--set=head.hidden_dim=20", NECK]
DETR_SIZES = ("dim=16", "num_heads=2", "hidden_dim=20", "encoder_depth=2", "decoder_depth=2", "num_queries=5")
DETR = [*PVT, "--head=detr", *(f"--set=head.{size}" for size in DETR_SIZES)]


@pytest.mark.parametrize(("head", "flags"), [("retinanet", RETINANET), ("detr", DETR)])
def test_a_detector_there_and_back_bit_for_bit(head, flags, tmp_path):
    tensors = dense_toys.weights("pvt", head)
    for tensor in tensors.values():
        if tensor.size > 4:
            tensor.view(np.uint32).flat[:4] = (0x7F7FFFFF, 0xFF7FFFFF, 0x00012345, 0x80000000)
    saved = {name: torch_files.tensor(tensor) for name, tensor in tensors.items()}
    source = tmp_path / "w.pth"
    source.write_bytes(torch_files.zip_bytes({"meta": {"epoch": 12}, "state_dict": saved, "optimizer": {}}))
    converted(source, tmp_path / "orbax", *flags)
    config = json.loads((tmp_path / "orbax" / "config.json").read_text())
    assert config["task"] == "detection" and config["head"] == {"name": head, **dense_toys.SETTINGS[head][0]}
    assert config["model"]["num_classes"] == 7
    converted(tmp_path / "orbax", tmp_path / "back.safetensors")
    assert_same_bits(tmp_path / "back.safetensors", tensors)
    assert read_metadata(tmp_path / "back.safetensors")["head"] == head
    converted(tmp_path / "back.safetensors", tmp_path / "again.safetensors", *flags)
    assert_same_bits(tmp_path / "again.safetensors", tensors)


def test_the_boxes_of_a_mask_rcnn(tmp_path, capfd):
    tensors = dense_toys.weights("pvt", "mask_rcnn")
    source = write_torch(tmp_path / "w.pth", tensors)
    line = refused(capfd, source, tmp_path / "out", *PVT)
    assert "w.pth has a head: give it with --head mask_rcnn, which it looks like" in line
    line = refused(capfd, source, tmp_path / "out", *RETINANET)
    assert "w.pth has no retinanet head: give the number of classes of the new one with --num_classes" in line
    converted(source, tmp_path / "boxes.safetensors", *FASTER_RCNN)
    out = capfd.readouterr().out
    assert "of other modules, unused: roi_head.mask_head (12)" in out and "num_classes 7" in out
    boxes = {name: tensor for name, tensor in tensors.items() if ".mask_head." not in name}
    assert_same_bits(tmp_path / "boxes.safetensors", boxes)
    converted(source, tmp_path / "other.safetensors", *FASTER_RCNN, "--num_classes=4")
    started = "; new head/box/classifier, head/box/regressor, randomly initialised, for other classes (7 → 4)"
    assert started in capfd.readouterr().out
    found = read_state_dict(tmp_path / "other.safetensors")
    assert found["roi_head.bbox_head.fc_cls.bias"].shape == (5,) and found["roi_head.bbox_head.fc_reg.bias"].shape == (
        16,
    )
    assert np.array_equal(
        found["roi_head.bbox_head.shared_fcs.0.weight"], boxes["roi_head.bbox_head.shared_fcs.0.weight"]
    )


# What is refused.


@pytest.fixture
def source(tmp_path):
    return write_torch(tmp_path / "w.pth", state_dicts.weights(state_dicts.shapes("vit")))


def test_destinations(source, tmp_path, capfd):
    full = tmp_path / "full"
    full.mkdir()
    (full / "note").write_text("mine")
    assert f"{full} is not empty: choose another DST, or remove it first" in refused(capfd, source, full, *VIT)
    (tmp_path / "file.safetensors").write_text("mine")
    for name in ("file.safetensors", "full/note"):
        line = refused(capfd, source, tmp_path / name, *VIT)
        assert f"{tmp_path / name} exists: choose another DST, or remove it first" in line
        assert (tmp_path / name).read_text() == "mine"
    assert "cannot write .pth files: end DST in .safetensors" in refused(capfd, source, tmp_path / "new.pth", *VIT)
    (tmp_path / "odd.safetensors").mkdir()
    assert "is a folder, but .safetensors is for a file" in refused(capfd, source, tmp_path / "odd.safetensors", *VIT)
    line = refused(capfd, source, full / "note" / "below", *VIT)
    assert f"{full / 'note'} is a file: choose another DST than {full / 'note' / 'below'}" in line
    (tmp_path / "empty").mkdir()
    converted(source, tmp_path / "empty", *VIT)
    assert left_over(tmp_path / "empty") == {"checkpoints", "config.json"}


@pytest.mark.parametrize("place", [".", "", "sub/..", "{here}"])
def test_a_destination_needs_a_name_of_its_own(place, source, tmp_path, monkeypatch, capfd):
    (tmp_path / "here" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    line = refused(capfd, source, place.format(here=tmp_path / "here"), *VIT)
    assert "is an existing folder, and DST must be new: give it another name" in line


def test_the_home_folder(source, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    converted(source, "~/w.safetensors", *VIT)
    assert left_over(tmp_path / "home") == {"w.safetensors"}
    for flags in ((source, "~nobody-of-this-name/x"), ("~nobody-of-this-name/x.pth", tmp_path / "out")):
        assert "no home folder is known for ~nobody-of-this-name/x" in refused(capfd, *flags, *VIT)


def test_sources_and_models(source, tmp_path, capfd):
    out = tmp_path / "out"
    assert "there is no" in refused(capfd, tmp_path / "none.pth", out, *VIT)
    line = refused(capfd, source, out)
    assert "is of with --model and its sizes with --set: it looks like a vit of depths (2,) and dims (16,)" in line
    assert "unknown model 'vit_tini_patch16'" in refused(capfd, source, out, "--model=vit_tini_patch16")
    assert "has no setting 'dept': did you mean 'depth'" in refused(capfd, source, out, *VIT, "--set=dept=2")
    assert "It looks like a vit of depths (2,)" in refused(capfd, source, out, "--model=vit_tiny_patch16")
    assert "has no moving average" in refused(capfd, source, out, *VIT, "--ema")
    (tmp_path / "text.pth").write_text("no weights")
    assert str(tmp_path / "text.pth") in refused(capfd, tmp_path / "text.pth", out, *VIT)
    assert not out.exists()


def test_a_size_that_has_a_name_is_named(tmp_path, capfd):
    shapes = json.loads((reference.GOLDEN / "pvt_v2_b0.keys.json").read_text())
    storage = np.zeros(max(np.prod(shape) for shape in shapes.values()), np.float32)
    views = {name: storage[: np.prod(shape)].reshape(shape) for name, shape in shapes.items()}
    shared = {name: torch_files.view(storage, array) for name, array in views.items()}
    (tmp_path / "w.pth").write_bytes(torch_files.zip_bytes(shared))
    line = refused(capfd, tmp_path / "w.pth", tmp_path / "out")
    assert line.endswith("is of with --model, such as --model pvt_v2_b0, which it looks like\n")


@pytest.mark.parametrize(
    "stated", ["[128, 128]", "[-64, -64]", "[200000, 200000]", "[20000, 20000]", "true", "[" * 99999]
)
def test_an_image_size_that_is_not_that_of_the_tables_is_not_believed(stated, tmp_path):
    tensors = state_dicts.weights(state_dicts.shapes("vit"))
    write_safetensors(tmp_path / "w.safetensors", tensors, {"image_size": stated})
    converted(tmp_path / "w.safetensors", tmp_path / "out.safetensors", *VIT)
    assert_same_bits(tmp_path / "out.safetensors", tensors)
    assert read_metadata(tmp_path / "out.safetensors")["image_size"] == "[64, 64]"


def test_no_images_are_made(tmp_path):
    """Without position tables any size may be stated; images of this one would take three gigabytes."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak memory of a process is read from Linux's /proc")
    tensors = state_dicts.weights(state_dicts.shapes("resnet basic"))
    write_safetensors(tmp_path / "w.safetensors", tensors, {"image_size": "[16384, 16384]"})
    script = (
        "import sys; from pvt_jax import convert; code = convert.main(sys.argv[1:])\n"
        # getrusage would give the peak of the process that started this one, if that is higher.
        "peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM')]\n"
        "assert int(peak[0].split()[1]) < 2 * 2**20, peak\n"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "w.safetensors"), str(tmp_path / "out"), *RESNET]
    done = subprocess.run([*command, "--num_classes=7"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("dtype=foo", "dtype foo"),
        ("depths=3", "depths"),
        ("spp_levels=3", "spp_levels"),
        ("remat={1}", "a setting of the model is wrong (Object of type set is not JSON serializable): name pvt_tiny"),
        ("drop_path_rate=x", "drop_path_rate must be at least 0 and below 1, but is 'x'"),
        ("drop_path_rate=1", "drop_path_rate must be at least 0 and below 1, but is 1"),
        ("x={[]:1}", "has no setting 'x'"),
    ],
)
def test_settings_of_another_type(setting, text, tmp_path, capfd):
    source = write_torch(tmp_path / "w.pth", state_dicts.weights(state_dicts.shapes("pvt")))
    assert text in refused(capfd, source, tmp_path / "out", *PVT, f"--set={setting}")
    assert left_over(tmp_path) == {"w.pth"}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": 5}, "calls its model 5: give its name with --model"),
        ({"name": ["resnet18"]}, "calls its model ['resnet18']: give its name with --model"),
        ({"image_size": [64]}, "the image_size of a model is a side or (height, width)"),
        ({"image_size": "64"}, "image_size"),
        ({"num_classes": -1}, "num_classes must be above 0, but is -1"),
        ({"num_classes": "7"}, "num_classes must be above 0, but is '7'"),
        ({"depths": None}, "depths"),
    ],
)
def test_a_config_with_wrong_settings(changes, text, folder, tmp_path, capfd):
    run = shutil.copytree(folder[0], tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "model": {**config["model"], **changes}}))
    assert text in refused(capfd, run, tmp_path / "out.safetensors")


def test_flags(source, tmp_path, capfd):
    out = tmp_path / "out"
    assert "--set takes KEY=VALUE" in refused(capfd, source, out, *VIT, "--set=depth")
    assert "use --num_classes instead of --set num_classes=…" in refused(
        capfd, source, out, *VIT, "--set=num_classes=3"
    )
    assert "--num_classes must be above 0, but is 0" in refused(capfd, source, out, *VIT, "--num_classes=0")
    assert "--image_size must be above 0, but is [0, 3]" in refused(capfd, source, out, *VIT, "--image_size", 0, 3)
    assert "--wrong" in refused(capfd, source, out, *VIT, "--wrong")
    assert "(see python -m pvt_jax.convert --help)" in refused(capfd, source)


def test_help_has_examples_that_parse(capfd):
    with pytest.raises(SystemExit) as caught:
        convert.main(["--help"])
    assert caught.value.code == 0
    lines = capfd.readouterr().out.splitlines()
    examples = [
        line.split("pvt_jax.convert ")[1].replace("'", "").split() for line in lines if line.startswith("  python")
    ]
    assert len(examples) == 8
    for example in examples:
        flags = convert.parse(example)
        assert flags.model in pvt_jax.list_models() or str(flags.source).startswith("runs/")  # A run tells its model.
    assert convert.parse(examples[7]).settings == {"depths": (1, 1, 1, 1), "dims": (16, 32, 80, 64)}
    assert convert.parse(["a", "b", "--set=dtype=bfloat16"]).settings == {"dtype": "bfloat16"}


@pytest.mark.parametrize("kind", [UserError, OSError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_nothing(kind, source, tmp_path, monkeypatch, capfd):
    def fail(self):
        close(self)
        raise kind("the disk is full")

    close = store.CheckpointStore.close
    monkeypatch.setattr(store.CheckpointStore, "close", fail)
    if kind is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            convert.main([str(source), str(tmp_path / "out"), *VIT])
    else:
        assert convert.main([str(source), str(tmp_path / "out"), *VIT]) == 2
        assert capfd.readouterr().err == "error: the disk is full\n"
    assert left_over(tmp_path) == {"w.pth"}


def test_a_killed_conversion_leaves_no_destination(source, tmp_path):
    script = (
        "import os, sys; from pvt_jax import convert; from pvt_jax.training import store\n"
        "close = store.CheckpointStore.close\n"
        "store.CheckpointStore.close = lambda self: (close(self), os._exit(9))\n"
        "convert.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", script, str(source), str(tmp_path / "out"), *VIT]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 9
    assert not (tmp_path / "out").exists()
    converted(source, tmp_path / "out", *VIT)


def test_the_command_in_a_process_of_its_own(source, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    command = [sys.executable, "-m", "pvt_jax.convert", str(source), str(tmp_path / "full"), *VIT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: {tmp_path / 'full'} is not empty: choose another DST, or remove it first\n"
