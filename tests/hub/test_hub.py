"""A folder for the Hugging Face hub, and models that are named as hf://USER/REPO."""

import json

import jax
import numpy as np
import pytest
import yaml

from pvt_jax import convert
from pvt_jax.errors import UserError
from pvt_jax.prediction.trained import open_trained
from pvt_jax.weights import places
from pvt_jax.weights.load import read_checkpoint
from pvt_jax.weights.places import located
from tests.helpers.hub import COMMIT, serve_hub
from tests.helpers.trained import save_run

LINE = {"step": 3, "split": "eval", "loss": 1.25, "top1": 40.0, "ema_top1": 90.0, "iou/cat": 3.0}


@pytest.fixture(scope="module", params=["classification", "detection"])
def run(request, tmp_path_factory):
    """A run of a task whose checkpoint was evaluated."""
    run = save_run(request.param, tmp_path_factory.mktemp(request.param))
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps({**LINE, "step": step}) + "\n" for step in (2, 3)))
    return run


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """What is to be uploaded."""
    place = tmp_path_factory.mktemp("hub") / "model"
    assert convert.main([str(run.folder), str(place), "--hub_folder", "--license=apache-2.0"]) == 0
    return place


@pytest.fixture
def hub(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub, of the extra hub, is not installed")
    places._of_hub.cache_clear()
    with serve_hub(monkeypatch, tmp_path / "cache") as hub:
        hub.models["me/kept"] = {"model.safetensors.index.json": b'{"weight_map": {"x": "model-1.safetensors"}}'}
        names = ("model-1.safetensors", "model-2.safetensors", "a.bin")
        hub.models["me/kept"] |= {name: name.encode() for name in names}
        hub.models["me/none"] = {"README.md": b"", "tf_model.h5": b""}
        yield hub


def test_the_folder_is_the_run_without_its_paths(run, folder):
    # Transformers has no processor that prepares images as a detector's evaluation does.
    processor = {"preprocessor_config.json"} if type(run.task).__name__ == "Classification" else set()
    names = {"README.md", "config.json", "data.json", "model.safetensors"} | processor
    assert {path.name for path in folder.iterdir()} == names
    mine, theirs = open_trained(str(run.folder)), open_trained(str(folder))
    jax.tree.map(np.testing.assert_array_equal, mine.variables, theirs.variables)
    assert mine.classes == theirs.classes and mine.config.model == theirs.config.model
    assert mine.config.batch_transform == theirs.config.batch_transform
    assert mine.config.transform == theirs.config.transform
    whole = "".join((folder / name).read_text() for name in ("README.md", "config.json", "data.json"))
    assert str(run.folder.parent) not in whole


def test_the_card(run, folder):
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    found = yaml.safe_load(head)
    task = {"Classification": "image-classification", "Detection": "object-detection"}[type(run.task).__name__]
    assert (found["license"], found["library_name"], found["pipeline_tag"]) == ("apache-2.0", "pvt_jax", task)
    (result,) = found["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "loss", "value": 1.25}, {"type": "top1", "value": 40.0}]
    assert result["dataset"]["name"].endswith("5 images")
    assert "| top1 | 40 |" in text and "iou/cat" not in text and "after step 3;" in text
    assert "| batch_size | 4 |" in text and "| seed |" not in text and "data.threads" not in text
    assert f"0. {run.task.describe_data().class_names[0]}\n1. " in text
    assert 'pvt_jax.Predictor("hf://USER/REPO")' in text


@pytest.mark.parametrize("run", ["classification"], indirect=True)
def test_known_weights_keep_their_licence_and_others_say_that_they_have_none(run, tmp_path, monkeypatch, capsys):
    from pvt_jax.weights.known import KNOWN

    assert convert.main([str(run.folder), str(tmp_path / "a"), "--hub_folder", "--ema"]) == 2
    assert "has no ema_params" in capsys.readouterr().err
    assert convert.main([str(run.folder), str(tmp_path / "a"), "--hub_folder"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "note: the licence is not known, and the card says so: give it with --license\n"
    assert captured.out.endswith(f"; upload it with: hf upload USER/REPO {tmp_path / 'a'}\n")
    # Of a run that started from SegFormer's weights.
    config = json.loads((run.folder / "config.json").read_text())
    copied = tmp_path / "run"
    copied.mkdir()
    (copied / "checkpoints").symlink_to(run.folder / "checkpoints")
    (copied / "config.json").write_text(json.dumps({**config, "init": {"checkpoint": "mit_b0"}}))
    assert convert.main([str(copied), str(tmp_path / "b"), "--hub_folder"]) == 0
    head = yaml.safe_load((tmp_path / "b" / "README.md").read_text().split("---\n")[1])
    assert head["license"] == "other" and head["license_name"] == KNOWN["mit_b0"].licence
    assert "It started from the weights `mit_b0`." in (tmp_path / "b" / "README.md").read_text()
    for flags in ([str(tmp_path / "c"), "--license=mit"], [str(tmp_path / "c.safetensors"), "--hub_folder"]):
        assert convert.main([str(run.folder), *flags]) == 2
    assert not (tmp_path / "c").exists() and not (tmp_path / "c.safetensors").exists()


@pytest.mark.parametrize("run", ["detection"], indirect=True)
def test_a_model_of_the_hub_is_as_the_folder(folder, hub):
    hub.models["me/mine"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    url = "hf://me/mine@v1"
    trained, expected = open_trained(url), open_trained(str(folder))
    jax.tree.map(np.testing.assert_array_equal, trained.variables, expected.variables)
    assert trained.classes == expected.classes and trained.config == expected.config
    assert trained.notes[0].startswith(f"{url} (reference names ")
    assert sorted(hub.downloads) == ["config.json", "data.json", "model.safetensors"]
    found = read_checkpoint(f"{url}/model.safetensors")
    assert found.described == f"{url}/model.safetensors" and len(hub.downloads) == 3
    # Without a network what was fetched is there.
    hub.models.clear()
    places._of_hub.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert located(url).name == COMMIT


def test_only_what_is_needed_is_fetched(hub):
    place = located("hf://me/kept")
    assert {path.name for path in place.iterdir()} == {"model.safetensors.index.json", "model-1.safetensors"}


REFUSALS = {
    "hf://me/gone": "there is no me/gone, or it is private: check its name, and if it is private log in with `hf auth "
    "login`, or set HF_TOKEN",
    "hf://me/kept@v9": "me/kept has no revision v9: give a branch, a tag or a commit",
    "hf://me/kept/b.bin": "me/kept has no file b.bin: check its name",
    "hf://me/gated": "me/gated asks for consent: give it on https://huggingface.co/me/gated, and log in with `hf auth "
    "login`, or set HF_TOKEN",
    "hf://me/forbidden": "access is refused: log in with `hf auth login`, or set HF_TOKEN",
    "hf://me/a--b": "the hub has no names like me/a--b: give hf://USER/REPO",
}


@pytest.mark.parametrize("url", REFUSALS)
def test_what_cannot_be_fetched_is_one_line(hub, url):
    with pytest.raises(UserError) as error:
        located(url)
    assert str(error.value) == f"cannot fetch {url}: {REFUSALS[url]}"


def test_a_model_without_weights_and_no_network(hub, monkeypatch):
    with pytest.raises(UserError, match="no weights in hf://me/none: it has neither model.safetensors nor pytorch_mod"):
        located("hf://me/none")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot fetch hf://me/new: the hub cannot be reached, and it was not fetched"):
        located("hf://me/new")
