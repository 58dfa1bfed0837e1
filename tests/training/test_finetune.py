"""Training that starts from a checkpoint: what is loaded, what stays frozen, and resuming, on shrunk real configs."""

import shutil
import socket
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from PIL import Image

from pvt_jax import config as config_lib
from pvt_jax import main
from pvt_jax.errors import UserError
from pvt_jax.tasks.classification.task import Classification
from pvt_jax.training import loop
from pvt_jax.training.build import build, read_initial
from pvt_jax.training.step import train_step
from tests.helpers.command import ROOT, arguments, finish, records, start
from tests.helpers.programs import shared_programs  # noqa: F401
from tests.helpers.runs import stop_after

STEPS = 6
pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.fixture(scope="module")
def pretrained(shared_programs, tmp_path_factory):  # noqa: F811
    """The workdir of two steps on ten classes, with a moving average."""
    workdir = tmp_path_factory.mktemp("pretrained") / "run"
    assert main.main(arguments(workdir, steps="2", ema_decay="0.9")) == 0
    return workdir


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of three classes, eight training and two evaluation images each."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 8), ("val", 2)):
        for label, name in enumerate(("cat", "dog", "emu")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng([label, number]).integers(0, 255, (40, 40, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def flags_of(workdir, images, checkpoint, **overrides):
    """Six steps of configs/finetune.py, shrunk, with everything on that fine-tuning can meet."""
    options = {
        "init__checkpoint": str(checkpoint),
        "model__name": "pvt_tiny",
        "model__image_size": "32",
        "batch_size": "8",
        "accumulation_steps": "2",
        "steps": str(STEPS),
        "ema_decay": "0.9",
        "optimizer__learning_rate": "0.1",
        "optimizer__layer_decay": "0.7",
        **overrides,
    }
    return arguments(workdir, config=f"configs/finetune.py:{images}", **options)


def config_of(flags):
    parsed = main.parse(flags)
    config: Any = config_lib.read(config_lib.load(parsed.config, parsed.overrides))
    return config


def saved_items(workdir, step):
    """The arrays of a checkpoint, read by Orbax alone."""
    saved = ocp.load_checkpointables(str(workdir / "checkpoints" / str(step)))
    return {name: jax.tree.map(np.asarray, tree) for name, tree in saved.items() if name != "metrics"}


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def without_head(params):
    return {name: branch for name, branch in params.items() if name != "head"}


def refused(capfd, flags) -> str:
    capfd.readouterr()
    assert main.main(flags) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


# Loading.


@pytest.mark.parametrize("ema", [False, True])
def test_a_checkpoint_of_ten_classes_starts_one_of_three(pretrained, images, tmp_path, ema):
    run = build(config_of(flags_of(tmp_path, images, pretrained, init__ema=str(ema))))
    assert run.initial and "classifier" in run.initial.report and "10 → 3" in run.initial.report
    state = run.first_state(run.initial)
    expected = saved_items(pretrained, 2)["ema_params" if ema else "params"]
    assert_equal(jax.tree.map(np.asarray, without_head(state.params)), without_head(expected))
    assert state.params["head"]["linear"]["kernel"].shape == (64, 3)
    assert_equal(state.ema_params, state.params)
    assert int(state.step) == 0
    assert all(leaf.sharding.is_fully_replicated and leaf.committed for leaf in jax.tree.leaves(state))
    # The new classifier is drawn as that of a new model.
    assert 0.01 < np.std(state.params["head"]["linear"]["kernel"]) < 0.03


def test_what_the_checkpoint_lacks_is_refused_unless_it_is_allowed(pretrained, images, tmp_path, capfd):
    flags = flags_of(tmp_path / "run", images, pretrained, model__depths="(1,1,1,2)")
    assert "stage4/block1" in refused(capfd, flags) and not (tmp_path / "run").exists()
    initial = build(config_of([*flags, "--config.init.allow_missing=('stage4/block1/*',)"])).initial
    assert initial and "stage4/block1" in initial.report
    assert set(initial.variables["params"]["stage4"]) >= {"block0", "block1"}


def test_a_checkpoint_that_does_not_exist_is_named_before_the_data_is_looked_at(capfd, tmp_path):
    flags = arguments(tmp_path / "run", init__checkpoint="/nowhere/weights.pth", data__source="folder")
    line = refused(capfd, [*flags, "--config.data.root=/no/images"])
    assert "/nowhere/weights.pth" in line and "/no/images" not in line
    assert not (tmp_path / "run").exists()


def test_evaluation_of_what_a_run_would_start_from(pretrained, tmp_path, capfd):
    """The numbers are those that the run which saved it logged."""
    logged = records(pretrained, "eval")[-1]
    flags = [*arguments(tmp_path / "run", init__checkpoint=str(pretrained)), "--mode=eval"]
    assert main.main(flags) == 0
    out, err = capfd.readouterr()
    assert out.startswith("evaluated: step 0 ") and f"loss {logged['loss']:.4g}  top1 {logged['top1']:.4g}" in out
    assert err.strip(), "it says what was loaded"
    assert main.main([*flags, "--step=0", "--config.init.ema=True"]) == 0
    out = capfd.readouterr().out
    assert f"loss {logged['ema_loss']:.4g}  top1 {logged['ema_top1']:.4g}" in out
    assert logged["loss"] != logged["ema_loss"]
    assert not (tmp_path / "run").exists()
    assert "no config.json" in refused(capfd, [*flags, "--step=best"])


# Whole runs.


@pytest.fixture(scope="module", params=["", "backbone"], ids=["all", "head"])
def whole(request, pretrained, images, tmp_path_factory):
    """(frozen, the workdir of the run that nothing disturbed)."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert main.main(flags_of(workdir, images, pretrained, optimizer__frozen=request.param)) == 0
    return request.param, workdir


def test_what_is_frozen_stays_to_the_bit_and_the_rest_learns(whole, pretrained):
    frozen, workdir = whole
    start, end = saved_items(pretrained, 2)["params"], saved_items(workdir, STEPS)
    for params in (end["params"], end["ema_params"]):
        same = [np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (params, start)), strict=True)]
        names = [jax.tree_util.keystr(path, simple=True) for path, _ in jax.tree_util.tree_leaves_with_path(start)]
        assert {name for name, unchanged in zip(names, same, strict=True) if unchanged} == (
            {name for name in names if not name.startswith("head")} if frozen else set()
        )
    held = jax.tree_util.tree_leaves_with_path(end["opt_state"])
    moments = {jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in held if leaf.ndim}
    assert any(path.endswith("mu/head/linear/kernel") for path in moments)
    assert any("/stage1/" in path for path in moments) == (not frozen)
    assert len(moments) == 2 * (2 if frozen else len(names)), "two for each trained parameter"
    assert np.isfinite([[record["loss"], record["grad_norm"]] for record in records(workdir)]).all()


def test_resumed_after_the_checkpoint_it_began_from_is_gone(whole, pretrained, images, tmp_path, monkeypatch, capfd):
    """Stopped after some steps and resumed: to the bit the run that nothing disturbed."""
    frozen, undisturbed = whole
    first = shutil.copytree(pretrained, tmp_path / "pretrained")
    flags = flags_of(tmp_path / "run", images, first, optimizer__frozen=frozen)
    with monkeypatch.context() as patch:
        stop_after(patch, Classification, 2)
        assert main.main(flags) == 143
    assert "10 → 3" in capfd.readouterr().err, "a new run says what it loaded"
    shutil.rmtree(first)
    other = "" if frozen else "backbone"
    line = refused(capfd, [*flags, f"--config.optimizer.frozen={other}"])
    assert f"optimizer.frozen: {frozen or 'empty'} → {other or 'empty'}" in line
    assert "optimizer.layer_decay: 0.7 → 0.8" in refused(capfd, [*flags, "--config.optimizer.layer_decay=0.8"])
    assert main.main([*flags, "--config.init.checkpoint=/moved/elsewhere"]) == 0
    err = capfd.readouterr().err
    assert "resuming after step 3; init.checkpoint is not read again" in err
    assert_equal(saved_items(tmp_path / "run", STEPS), saved_items(undisturbed, STEPS))
    assert [record["loss"] for record in records(tmp_path / "run")] == [r["loss"] for r in records(undisturbed)]
    assert main.main([*flags, "--mode=eval"]) == 0
    assert capfd.readouterr().out.startswith(f"evaluated: step {STEPS} "), "its own checkpoint, not where it began"


@pytest.mark.parametrize("whole", ["backbone"], ids=["head"], indirect=True)
def test_two_processes_with_sharded_parameters_equal_one(whole, pretrained, images, tmp_path):
    frozen, undisturbed = whole
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = flags_of(tmp_path / "run", images, pretrained, optimizer__frozen=frozen, mesh__fsdp="2")
    flags += [f"--coordinator_address={address}", "--num_processes=2"]
    processes = [start([*flags, f"--process_id={number}"]) for number in range(2)]
    outputs = [finish(process) for process in processes]
    assert "10 → 3" in outputs[0][1] and "10 → 3" not in outputs[1][1], "one process speaks for all"
    assert outputs[0][0].splitlines()[-1].startswith("done:") and "done:" not in outputs[1][0]
    found, expected = (np.array([r["loss"] for r in records(run)]) for run in (tmp_path / "run", undisturbed))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


# What freezing saves.


def prepared(workdir, images, **overrides):
    flags = flags_of(workdir, images, "", accumulation_steps="1", **overrides)
    run = build(config_of(flags), resumes=True)
    shape = (8, *run.task.image_size, 3)
    return run, {"image": jax.ShapeDtypeStruct(shape, jnp.uint8), "label": jax.ShapeDtypeStruct((8,), jnp.int32)}


def flops_of(function, *arguments):
    cost: Any = jax.jit(function).lower(*arguments).cost_analysis()
    return cost["flops"]


def test_a_frozen_backbone_has_no_backward_pass(images, tmp_path):
    flops: dict[str, float] = {}
    forward = 0.0
    for frozen in ("", "backbone"):
        run, batch = prepared(tmp_path, images, optimizer__frozen=frozen)
        step = partial(
            train_step,
            objective=run.task,
            optimizer=run.optimizer,
            schedule=run.learning_rate,
            key=jax.random.key(0),
            accumulation_steps=1,
            ema_decay=0.9,
            frozen=frozen,
        )
        flops[frozen] = flops_of(step, run.abstract, batch)
        evaluation = {**batch, "mask": jax.ShapeDtypeStruct((8,), jnp.bool_)}
        forward = flops_of(run.task.evaluate, run.abstract.variables(), evaluation)
    assert flops["backbone"] < 1.2 * forward and flops[""] > 2.5 * forward


def test_a_frozen_backbone_computes_as_in_evaluation(images, tmp_path):
    """No residual branch is dropped; the other way round shows that there are some to drop."""
    losses = {}
    rng = np.random.default_rng(0)
    for frozen in ("", "backbone"):
        run, _ = prepared(tmp_path, images, optimizer__frozen=frozen, model__drop_path_rate="0.5")
        variables = jax.tree.map(
            lambda leaf: (0.2 * rng.standard_normal(leaf.shape)).astype("f"), run.abstract.variables()
        )
        batch = {"image": rng.standard_normal((8, 32, 32, 3)).astype("f"), "target": np.eye(8, 3, dtype="f")}
        loss = jax.jit(run.task.loss)
        losses[frozen] = [float(loss(variables, batch, jax.random.key(seed))[0]) for seed in range(4)]
    assert len(set(losses[""])) == 4 and len(set(losses["backbone"])) == 1


@pytest.mark.parametrize("frozen", ["", "backbone"])
def test_batch_statistics_of_a_frozen_backbone_do_not_change(images, tmp_path, frozen):
    flags = flags_of(tmp_path, images, "", model__name="resnet18", optimizer__frozen=frozen)
    task = Classification(config_of([flag for flag in flags if "model.dims" not in flag]))
    variables = jax.eval_shape(task.init, jax.random.key(0))
    batch = {"image": jnp.zeros((8, 32, 32, 3)), "target": jnp.eye(8, 3)}
    _, changed, _ = jax.eval_shape(task.loss, variables, batch, jax.random.key(0))
    assert set(changed) == (set() if frozen else {"batch_stats"})


def test_a_model_that_cannot_be_is_refused_before_its_data_is_looked_at(tmp_path):
    overrides = [f"data.root={tmp_path / 'nowhere'}", "head.score_threshold=2.0"]
    with pytest.raises(UserError, match="head.score_threshold must be from 0 to 1, but is 2.0"):
        loop.train(config_lib.load(str(ROOT / "configs/retinanet.py") + ":pvt_tiny", overrides), tmp_path / "run")


def test_a_backbone_is_not_frozen_at_random(images, tmp_path, capfd):
    """Without weights to start from, a frozen backbone is a mistake."""
    line = refused(capfd, flags_of(tmp_path / "run", images, "", optimizer__frozen="backbone")).strip()
    assert line == (
        "error: optimizer.frozen=backbone keeps random parameters: give init.checkpoint, or train all with "
        "--config.optimizer.frozen= (nothing after it)"
    )


def test_fine_tuning_from_nothing_says_so(images, tmp_path):
    run, _ = prepared(tmp_path, images, optimizer__layer_decay="0.9")
    assert read_initial(run.config, run.task).report == "init.checkpoint is empty: starting from random parameters"
