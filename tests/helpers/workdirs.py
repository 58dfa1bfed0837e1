"""The files of a run, as its program leaves them."""

import json

from pvt_jax import config as config_lib
from pvt_jax.data.description import DataDescription, SplitDescription

LINES = [
    {"step": 2, "split": "train", "loss": 3.0, "images_per_second": 0.0},
    {"step": 4, "split": "train", "loss": 2.0, "images_per_second": 8.0},
    {"step": 5, "split": "eval", "top1": 40.0, "ema_top1": 90.0},
    {"step": 6, "split": "train", "loss": None, "images_per_second": 16.0},
    {"step": 10, "split": "eval", "top1": 70.0},
    {"step": 11, "split": "train", "loss": 1.5, "images_per_second": 32.0},
    {"step": 15, "split": "eval", "top1": 70.0},
    {"step": 20, "split": "eval", "top1": 65.5},
]


def make_run(folder, lines=LINES, records=100, **chosen):
    """A workdir in which the program of a run has been."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = {"batch_size": 8, "epochs": 2.0, "steps": None, **chosen}
    (folder / "config.json").write_text(config_lib.to_json(config_lib.resolve(chosen)))
    if records:
        splits = {"train": SplitDescription(records, "here"), "eval": SplitDescription(7, "there")}
        (folder / "data.json").write_text(DataDescription("classification", "folder", ("a", "b"), **splits).to_json())
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
