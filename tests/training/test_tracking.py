"""What a tracking service is told, by a package in its place."""

import sys

import numpy as np
import pytest

from pvt_jax.errors import UserError
from pvt_jax.training import tracking
from pvt_jax.training.writer import MetricsWriter
from tests.helpers import command
from tests.helpers.services import Service


@pytest.fixture(params=["trackio", "wandb"])
def service(request, monkeypatch):
    module = Service(request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    return module


def start(service, workdir, project="p", said=None):
    return tracking.Tracker(service.__name__, project, workdir, {"seed": 3}, (said if said is not None else []).append)


def test_it_is_told_what_tensorboard_is(service, tmp_path, capsys):
    workdir = tmp_path / "digits"
    workdir.mkdir()
    writer = MetricsWriter(workdir, 0, start(service, workdir))
    writer.write(2, "train", {"loss": 0.5, "grad_norm": float("nan")})
    writer.write(2, "eval", {"top1": 97.5})
    writer.write_pictures(2, [("000", np.zeros((4, 6, 3), np.uint8))])
    writer.close()
    assert service.logged == [
        (2, {"train/loss": 0.5}),
        (2, {"eval/top1": 97.5}),
        (2, {"eval/000": ("image", (4, 6, 3))}),
    ]
    assert service.finished == 1
    # stdout is for the result of the command.
    assert capsys.readouterr() == ("", "a greeting\n")


def test_a_run_that_goes_on_is_the_same_there_and_another_is_not(service, tmp_path):
    folders = [tmp_path / name / "digits" for name in ("a", "a", "b")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        start(service, folder)
    one, again, other = service.starts
    assert one == again and one["resume"] == "allow" and (one["project"], one["config"]) == ("p", {"seed": 3})
    identity = {"trackio": "name", "wandb": "id"}[service.__name__]
    assert one[identity] != other[identity] and one["name"].startswith("digits")


def test_the_training_goes_on_when_it_fails(service, tmp_path):
    said = []
    tracker, service.bad_step = start(service, tmp_path, said=said), 4
    for step in (2, 4, 6):
        tracker.log(step, "train", {"loss": 1.0})
    tracker.close()
    assert [step for step, _ in service.logged] == [2] and service.finished == 0
    assert said == [f"tracking={service.__name__} has failed (OSError: gone away): the run goes on without it"]


def test_a_service_that_does_not_start_is_told(service, tmp_path):
    with pytest.raises(UserError) as error:
        start(service, tmp_path, project="closed")
    name = service.__name__
    assert str(error.value) == (
        f"tracking={name} does not start (ConnectionError: no key): log in, or see the documentation of {name} for "
        "working offline, or leave tracking away"
    )


def test_without_the_package_nothing_begins(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    out, err = command.run_here(command.arguments(tmp_path / "run", tracking="wandb", steps="2"), code=2)
    assert (out, err) == (
        "",
        "error: tracking=wandb needs the package wandb: pip install wandb, or leave tracking away\n",
    )
    assert not (tmp_path / "run").exists()
    tracking.check("")
