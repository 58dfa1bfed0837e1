"""What a run says of itself before its first step."""

import time

from pvt_jax import config as config_lib
from pvt_jax.messages import waiting
from pvt_jax.training.build import build
from pvt_jax.training.introduction import introduction
from tests.helpers.command import ROOT


def lines_of(file, *overrides):
    run = build(config_lib.read(config_lib.load(f"{ROOT}/configs/{file}", list(overrides))))
    return dict(line.split(maxsplit=1) for line in introduction(run))


def test_a_classifier():
    lines = lines_of("digits.py", "mesh.fsdp=1", "ema_decay=0.9", "optimizer.base_batch_size=128")
    # 30 epochs of 22 whole batches of the 1,438 digits; half the rate for half the batch.
    assert list(lines) == ["model", "devices", "data", "length", "recipe", "saving"]
    assert lines["model"] == "pvt_tiny: 3,098,250 parameters; 0.0111 GMACs at 32×32; float32"
    assert lines["devices"].endswith("× cpu; mesh data 1 × fsdp 1") or "mesh data" in lines["devices"]
    assert lines["data"].startswith("1,438 training and 359 evaluation images of 10 classes")
    assert lines["length"] == "660 steps with batches of 64 (29.4 epochs of 1,438 images)"
    assert lines["recipe"] == (
        "learning rate 0.0005 (0.001 at a batch of 128, scaled), cosine to 1e-05, 110 steps of warm-up, weight decay "
        "0.05, gradients clipped at norm 1, moving average of 0.9"
    )
    assert lines["saving"] == "evaluated every 220 steps; a checkpoint every 110 steps"


def test_a_segmentation_with_a_frozen_part():
    keys = (
        "init.checkpoint=",
        "accumulation_steps=2",
        "steps=4",
        "early_stopping.patience=3",
        "optimizer.warmup_steps=0",
    )
    lines = lines_of("digits_segmentation.py", *keys)
    assert " with semantic_fpn: " in lines["model"] and " GMACs of the backbone at " in lines["model"]
    assert lines["length"].startswith("4 steps with batches of ") and " in 2 parts " in lines["length"]
    assert "no warm-up" in lines["recipe"] and "no moving average" in lines["recipe"]
    assert "early stopping after 3 evaluations without a better one" in lines["saving"]


def test_only_long_waits_are_told():
    said = []
    with waiting("short", said.append, seconds=5):
        pass
    with waiting("long", said.append, seconds=0.01):
        time.sleep(0.2)
    with waiting("broken", said.append, seconds=5):
        pass
    assert said == ["long"]
