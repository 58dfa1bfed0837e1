"""Numbers that fit their keys and still cannot be meant: what is refused, what is said, and what is left alone."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax import config as config_lib
from pvt_jax.errors import UserError
from pvt_jax.tasks.options import BatchTransformOptions
from pvt_jax.training.build import Run
from pvt_jax.training.lengths import Lengths
from pvt_jax.training.optimizer import scaled_learning_rate, warmup_cosine
from pvt_jax.training.plausible import check_config, check_schedule
from pvt_jax.training.sharding import make_mesh
from pvt_jax.training.state import TrainState


def config_of(**changes):
    """A classifier's config, with changes by dotted key (``__`` for the dot)."""
    return config_lib.read(config_lib.resolve({key.replace("__", "."): value for key, value in changes.items()}))


def notes_of(examples=1024, **changes):
    """All notes on such a config."""
    config = config_of(**changes)
    options = config.optimizer
    peak = scaled_learning_rate(options.learning_rate, options.base_batch_size, config.batch_size)
    return check_config(config) + check_schedule(config, Lengths.of(config, examples), peak, examples)


def refused(**changes) -> str:
    with pytest.raises(UserError) as caught:
        check_config(config_of(**changes))
    assert "\n" not in str(caught.value)
    return str(caught.value)


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALED = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.mark.parametrize(
    ("mean", "std", "advised"),
    [
        (*IMAGENET, SCALED),
        ((0.5,) * 3, (0.5,) * 3, ((127.5,) * 3, (127.5,) * 3)),
        (SCALED[0], IMAGENET[1], SCALED),
        (IMAGENET[0], SCALED[1], SCALED),
        ((0.0,) * 3, IMAGENET[1], ((0.0,) * 3, SCALED[1])),
        ((0.1307,) * 3, (0.3081,) * 3, ((33.3285,) * 3, (78.5655,) * 3)),
    ],
)
def test_pixels_of_0_to_1_are_refused_with_the_numbers_to_set(mean, std, advised):
    message = refused(batch_transform={"mean": mean, "std": std})
    for key, values in zip(("mean", "std"), advised, strict=True):
        assert f"'--config.batch_transform.{key}=({','.join(f'{value:g}' for value in values)})'" in message
    # A run that was trained so goes on, and its evaluation is the same as ever.
    assert check_config(config_of(batch_transform={"mean": mean, "std": std}), refuse=False) == [message]
    assert not notes_of(batch_transform=dict(zip(("mean", "std"), advised, strict=True)))


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.floats(0.02, 0.98)] * 3), st.floats(0.05, 0.95))
def test_any_statistics_of_0_to_1_are_refused_and_those_of_0_to_255_are_not(mean, share):
    # No numbers in 0..1 with a mean m deviate by more than √(m (1 - m)).
    std = tuple(share * (m * (1 - m)) ** 0.5 for m in mean)
    config = config_of()
    with pytest.raises(UserError, match=r"is of pixels in 0\.\.1"):
        check_config(replace(config, batch_transform=BatchTransformOptions(mean, std)))
    times_255 = (tuple(255 * value for value in values) for values in (mean, std))
    assert not check_config(replace(config, batch_transform=BatchTransformOptions(*times_255)))


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        (SCALED[0][::-1], SCALED[1][::-1], "looks like ImageNet's as blue, green, red"),
        (SCALED[0][::-1], (1.0,) * 3, "looks like ImageNet's as blue, green, red"),
        ((0.0,) * 3, (1.0,) * 3, "leaves pixels as they are, in 0..255"),
        (SCALED[0], (1.0,) * 3, ""),
        ((0.0,) * 3, (255.0,) * 3, ""),
        ((0.8, 0.7, 0.9), (6.0, 5.0, 7.0), ""),  # Nearly black images.
    ],
)
def test_pixels_that_may_be_meant(mean, std, words):
    notes = notes_of(batch_transform={"mean": mean, "std": std})
    assert len(notes) == bool(words) and all(words in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer__learning_rate": 3.0}, "the peak learning rate is 3 (3 at a batch of 1024, scaled to 1024)"),
        ({"optimizer__learning_rate": 1e-3, "optimizer__base_batch_size": 1}, "the peak learning rate is 1.02"),
        ({"optimizer__weight_decay": 2000.0}, "takes away all of a parameter at each step"),
        ({"optimizer__backbone_multiplier": 0.0, "optimizer__head_multiplier": 0.0}, "trains nothing"),
    ],
)
def test_updates_that_no_one_can_want(changes, words):
    assert words in refused(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 4}, "only 3.91e-06 (0.001 at a batch of 1024, scaled to 4), below"),
        ({"batch_size": 4}, "optimizer.base_batch_size=64 for 6.25e-05"),
        ({"batch_size": 4}, "--config.batch_size=128 --config.accumulation_steps=32 with the same memory"),
        ({"optimizer__final_learning_rate": 0.01}, "below optimizer.final_learning_rate=0.01: set it lower"),
        ({"optimizer__learning_rate": 0.1}, "which is high for AdamW"),
        ({"optimizer__b1": 0.999, "optimizer__b2": 0.9}, "optimizer.b1=0.999 with optimizer.b2=0.9: Adam is unstable"),
        ({"batch_size": 2048}, "batch_size=2048 is more than the 1,024 training images: every batch repeats some"),
        ({"epochs": 0.01}, "epochs=0.01 is 0.01 of a step: one is taken"),
        ({"ema_decay": 0.99999}, "to 100 % the average stays what it began with. Set --config.ema_decay=0.967 or less"),
        (
            {"epochs": 12.0, "optimizer__schedule": "step", "optimizer__drop_epochs": (8.0, 24.0)},
            "1 of 2 drops of the learning rate (step 24) comes after the run of 12 steps",
        ),
        (
            {"epochs": 3.0},
            "the warm-up of 5 steps (optimizer.warmup_epochs=5) is not over when the run of 3 steps is: its last "
            "learning rate is 4.01e-04, and the peak of 0.001 is never reached. For a run this short set "
            "--config.optimizer.warmup_steps=0",
        ),
        ({"optimizer__warmup_steps": 300}, "the warm-up of 300 steps (optimizer.warmup_steps=300) is not over"),
    ],
)
def test_what_is_said(changes, words):
    assert any(words in note for note in notes_of(**changes)), notes_of(**changes)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 400), st.integers(0, 400))
def test_the_warm_up_is_spoken_of_where_the_peak_is_not_reached(total, warmup):
    notes = notes_of(steps=total, optimizer={"warmup_steps": warmup})
    schedule = warmup_cosine(1e-3, 1e-6, 1e-5, warmup, total)
    said = next((note for note in notes if "warm-up" in note), "")
    assert bool(said) == (0 < total <= warmup)
    if said:
        assert f"last learning rate is {float(schedule(total - 1)):.2e}" in said


@pytest.mark.parametrize(
    "spec", ["digits", "cifar10", "pvt_tiny", "vit:tiny_patch16", "segformer:mit_b0", "retinanet:pvt_tiny"]
)
def test_recipes_are_silent(spec):
    path, _, argument = spec.partition(":")
    file = Path(__file__).parents[2] / f"configs/{path}.py"
    config = config_lib.read(config_lib.load(f"{file}:{argument}" if argument else str(file)))
    examples = {"classification": 1_281_167, "segmentation": 20_210, "detection": 117_266}[config.task]
    examples = 1438 if spec == "digits" else examples
    options = config.optimizer
    peak = scaled_learning_rate(options.learning_rate, options.base_batch_size, config.batch_size)
    assert check_config(config) == check_schedule(config, Lengths.of(config, examples), peak, examples) == []


def test_a_run_whose_weights_are_not_finite_is_not_restored():
    model = nn.Dense(2)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 3)))
    state = TrainState.create(variables, optax.adamw(1e-3), ema=True)
    run: Any = SimpleNamespace(abstract=state, mesh=make_mesh(1))

    def restored(items, earlier=(), **options):
        store: Any = SimpleNamespace(
            directory=Path("run/checkpoints"), restore=lambda *_: (7, items), steps=lambda: [*earlier, 7]
        )
        return Run.restore(run, store, **options)

    items = state.to_items()
    assert int(restored(items).step) == 7
    kernel = state.params["kernel"].at[1, 1].set(jnp.inf)
    for item in ("params", "ema_params"):
        with pytest.raises(UserError) as caught:
            restored({**items, item: {**items[item], "kernel": kernel}})
        start = f"checkpoint run/checkpoints/7 has NaN or infinity in 1 tensor: {item}/kernel (1 of 6 numbers). The run"
        assert str(caught.value).startswith(start)
    moments = flax.traverse_util.flatten_dict(items["opt_state"], keep_empty_nodes=True, sep="/")
    place = next(path for path in moments if path.endswith("/nu/kernel"))
    broken = {**items, "opt_state": flax.traverse_util.unflatten_dict({**moments, place: kernel}, sep="/")}
    assert int(restored(broken, training=False).step) == 7  # An evaluation has no use for them.
    for earlier, way_out in (((), ""), ((3, 5), "move that folder away to go on from step 5, or ")):
        with pytest.raises(UserError) as caught:
            restored(broken, earlier)
        assert str(caught.value) == (
            f"checkpoint run/checkpoints/7 has NaN or infinity in the optimizer's moments, 1 array: opt_state/{place} "
            f"(1 of 6 numbers). The next step would spread it to the weights: {way_out}start in another --workdir with "
            "--config.init.checkpoint=run/checkpoints/7, which takes the weights and new moments"
        )
