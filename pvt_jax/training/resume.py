"""A run that goes on, or is evaluated, compares itself with what it was: its classes, its data, its length."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pvt_jax.data.description import (
    DataDescription,
    difference_of_classes,
    difference_of_colours,
    difference_of_records,
)
from pvt_jax.errors import UserError
from pvt_jax.messages import plural
from pvt_jax.tasks.options import TaskConfig
from pvt_jax.training.lengths import Lengths, schedule_of


@dataclass(frozen=True)
class Past:
    """What a run was when it last started.

    Attributes:
      workdir: its folder.
      config: its config as plain dicts.
      data: None for the run of a version that wrote none.
    """

    workdir: Path
    config: Mapping[str, Any]
    data: DataDescription | None

    def check_classes(self, now: DataDescription) -> None:
        """Raises UserError unless the data still has the classes of the run, in their order."""
        if self.data and (what := difference_of_classes(self.data.class_names, now.class_names)):
            way_out = "Give the data of that run, or another --workdir"
            old, new = self.data.class_names, now.class_names
            # A name at another label says that labels have moved: then removing the file would hide it.
            if len(old) == len(new) and not any(name in new and new.index(name) != k for k, name in enumerate(old)):
                way_out += f"; if each label still means what it did, remove {self.workdir / 'data.json'}"
            raise UserError(f"the data has other classes than the run in {self.workdir}: {what}. {way_out}")

    def check_held_out(self, config: TaskConfig) -> None:
        """Raises UserError if ``config`` would evaluate on other images than the run held out: it trained on them."""
        data = self.config.get("data", {})
        old, new = (data.get("holdout", 0.0), self.config.get("seed", 0)), (config.data.holdout, config.seed)
        if old[0] and new[0] and old != new:
            raise UserError(
                f"the run in {self.workdir} held out {old[0]:g} of its images with seed {old[1]}, and not {new[0]:g} "
                f"with seed {new[1]}: give --config.data.holdout={old[0]:g} and --config.seed={old[1]}, or data with a "
                f"split for evaluation"
            )

    def check_apart(self, config: TaskConfig) -> None:
        """Raises UserError if all images of the data that the run divided would be evaluated on."""
        data = self.config.get("data", {})
        if data.get("holdout") and os.path.abspath(data["root"]) == os.path.abspath(config.data.root):
            raise UserError(
                f"the run in {self.workdir} held out {data['holdout']:g} of the images in {config.data.root} and "
                f"trained on the others: give --config.data.holdout={data['holdout']:g}, or a folder of other images"
            )

    def check_length(self, config: TaskConfig, now: Lengths, examples: int) -> None:
        """Raises UserError if ``config`` asks for a shorter run than this was; ``examples`` are those of the data."""
        before = self._lengths(config, examples)
        if self._asked(config) and now.total < before.total:
            raise UserError(
                f"--extend makes a run longer, but that in {self.workdir} has {before.total:,} steps and the config "
                f"asks for {now.total:,}: give more, or another --workdir"
            )

    def changes(self, config: TaskConfig, lengths: Lengths, data: DataDescription, step: int) -> list[str]:
        """Lines on what has changed for a run that goes on after ``step``: its data, its length and learning rate."""
        length = self._changed_length(config, lengths, data, step)
        return [*self.changed_data(data), *([length] if length else [])]

    def changed_data(self, now: DataDescription) -> list[str]:
        """Lines on what has changed in the data, its classes aside."""
        if self.data is None:
            return []
        changed = [difference_of_records(self.data, now), difference_of_colours(self.data, now)]
        return [f"the data has changed since this run last started: {what}" for what in changed if what]

    def _changed_length(self, config: TaskConfig, now: Lengths, data: DataDescription, step: int) -> str:
        before = self._lengths(config, data.train.records)
        if (before.total, before.warmup, before.drops) == (now.total, now.warmup, now.drops):
            return ""
        old, new = (float(schedule_of(config, lengths)[1](step)) for lengths in (before, now))
        rate = f"stays {new:.3g}"
        if abs(old - new) > 1e-6 * max(old, new):
            rate = f"goes from {old:.3g} to {new:.3g}"
        length = f"the run keeps its {now.total:,} steps"
        if before.total != now.total:
            length = f"the run is {now.total:,} steps long now and was {before.total:,}"
        return f"{length}: {self._moved(config, before, now, step)}; after step {step:,} the learning rate {rate}"

    def _moved(self, config: TaskConfig, before: Lengths, now: Lengths, step: int) -> str:
        """What of the schedule has moved with the length of the run, and what has not."""
        schedule, parts = config.optimizer.schedule, []
        if schedule != "step" and before.total != now.total:
            parts.append(f"schedule {schedule} is computed anew for all of them")
        if before.warmup != now.warmup:
            parts.append(f"the warm-up takes {plural(now.warmup, 'step')} and took {before.warmup:,}")
        elif now.warmup:
            parts.append(f"the warm-up stays {plural(now.warmup, 'step')}")
        if schedule == "step":
            old, new = (", ".join(f"{drop:,}" for drop in lengths.drops) for lengths in (before, now))
            place = f"step{'s' * (len(now.drops) > 1)} {new}"
            parts.append(f"drops of the learning rate stay at {place}")
            if old != new:
                parts[-1] = f"drops of the learning rate are at {place} and were at {old}"
            elif max(now.drops) <= step:
                again = f"in another --workdir with --config.init.checkpoint={self.workdir}"
                parts[-1] += f", which have passed (for later ones train {again})"
        return ", ".join(parts)

    def _asked(self, config: TaskConfig) -> dict[str, Any]:
        """What the run was asked for, where ``config`` asks for something else."""
        wanted = {"steps": config.steps, "epochs": config.epochs}
        return {name: self.config[name] for name, value in wanted.items() if self.config.get(name, value) != value}

    def _lengths(self, config: TaskConfig, examples: int) -> Lengths:
        """The lengths that the run had; ``config`` agrees in all else."""
        records = self.data.train.records if self.data else 0
        return Lengths.of(replace(config, **self._asked(config)), records or examples)
