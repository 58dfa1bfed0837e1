"""What a sweep is: arms, seeds, and how its results are shown."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pvt_jax.errors import UserError

# Names of arms are names of folders.
_NAME = re.compile(r"[A-Za-z0-9][\w.+=-]*")


@dataclass(frozen=True)
class Arm:
    """One of the things that a sweep compares.

    Attributes:
      name: unique in its sweep, of letters, digits and ``_ . + = -``.
      facts: what the arm is, as ``{"backbone": "PVT v2", "side": 224}``: columns of tables and axes of figures.
      against: the arm that it is compared with; empty for the baseline of the sweep.
    """

    name: str
    facts: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    against: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Train(Arm):
    """A training run for each seed, by ``pvt_jax.main``.

    Attributes:
      config: as ``--config`` takes it; ``./FILE`` and ``../FILE`` start from the sweep's file.
      overrides: keys of the config with their values.
      start: the arm with whose weights, of the same seed, it starts.
      tuned: whether the learning rate is that which the sweep's ``tuning`` finds for this arm.
    """

    config: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    start: str = ""
    tuned: bool = True


@dataclass(frozen=True)
class Evaluate(Arm):
    """An evaluation of a trained arm, for each seed, under other keys, as at another image size.

    Attributes:
      of: name of a ``Train`` arm.
      overrides: keys of the config with their values, besides those of ``of``.
    """

    of: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure(Arm):
    """A command that prints one JSON object on stdout; it has no seed, and it runs as often as ``repeats`` says.

    Attributes:
      command: a module, as ``pvt_jax.summary``, or a script, as ``match.py``, which stands beside the sweep's file.
      arguments: its arguments. ``{NAME}`` stands for the workdir of the trained arm NAME of the same seed; then it runs
        once for each seed.
    """

    command: str
    arguments: Sequence[str] = ()

    @property
    def needs(self) -> list[str]:
        """The trained arms whose workdirs it reads."""
        return [name for word in self.arguments for name in re.findall(r"\{([^{}]+)\}", word)]


@dataclass(frozen=True)
class Tuning:
    """How each arm finds its learning rate: by successive halving (arXiv 1502.07943).

    All ``values`` are trained for the first of ``steps``; the better half of them, rounded up, for the second; and so
    on. Each look is a whole schedule of its length. The value that is best at the end is taken for all seeds.

    Attributes:
      values: candidates, ascending.
      steps: lengths of the looks.
      key: the key that is tuned.
      seed: of these runs; none of those that are compared.
      overrides: keys of the config for these runs alone, as a held-out part of the training data to evaluate on.
    """

    values: Sequence[float]
    steps: Sequence[int]
    key: str = "optimizer.learning_rate"
    seed: int = 1000
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """A column of the table of results.

    Attributes:
      title: its title, with the unit.
      value: where a record has it, as ``"values.top1"`` or ``"facts.backbone"``. Numbers are means over the seeds.
      form: format of a number.
      scale: factor of a number.
    """

    title: str
    value: str
    form: str = ".2f"
    scale: float = 1.0


class Figure(Protocol):
    """A picture of the records of a sweep; ``file`` is its name beside the sweep's file, ``title`` what it shows."""

    @property
    def file(self) -> str:
        """Name of a PNG file."""
        ...

    @property
    def title(self) -> str:
        """In words."""
        ...

    def draw(self, sweep: "Sweep", records: Sequence[Mapping[str, Any]]) -> bytes | None:
        """The picture; None while there is nothing to draw."""
        ...

    def table(self, sweep: "Sweep", records: Sequence[Mapping[str, Any]]) -> list[str]:
        """Lines of Markdown with the numbers that are only in the picture, as fitted exponents; empty if none."""
        ...


@dataclass(frozen=True)
class Sweep:
    """A question, as a list of runs.

    Attributes:
      title: of its table; names the scale, as "PVT on CIFAR-10 at 32²".
      scale: a word for that scale; records of several scales stand in one file.
      arms: what is run, in this order. An arm that needs another one comes after it.
      seeds: of trained arms.
      metric: by which trained arms are compared, higher is better; empty if none are.
      baseline: the arm that the others are compared with; empty for the first one that is trained.
      columns: of the table, besides the arm and what ``metric`` adds.
      figures: pictures.
      tuning: how arms find their learning rate; None takes that of their configs.
      tuned_from: of which seed are the weights that looks start from; None for the first one. It stays what it was
        when other ``seeds`` are chosen, so that their learning rate does as well.
    """

    title: str
    scale: str
    arms: Sequence[Arm]
    seeds: Sequence[int] = (0, 1, 2)
    metric: str = ""
    baseline: str = ""
    columns: Sequence[Column] = ()
    figures: Sequence[Figure] = ()
    tuning: Tuning | None = None
    tuned_from: int | None = None

    @property
    def start_seed(self) -> int:
        """Of the weights that looks start from."""
        return self.seeds[0] if self.tuned_from is None else self.tuned_from

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def check(self) -> None:
        """Raise UserError unless names are unique and what an arm needs stands before it."""
        seen: dict[str, Arm] = {}
        for arm in self.arms:
            if not _NAME.fullmatch(arm.name):
                raise UserError(f"an arm is called {arm.name!r}: take letters, digits and _ . + = - alone")
            if arm.name in seen:
                raise UserError(f"two arms are called {arm.name!r}")
            for needed in needs(arm):
                if not isinstance(seen.get(needed), Train):
                    raise UserError(f"arm {arm.name!r} needs {needed!r}, which is no trained arm before it")
            seen[arm.name] = arm
        if not seen:
            raise UserError("a sweep without arms")
        for name in (self.baseline, *(arm.against for arm in self.arms)):
            if name and name not in seen:
                raise UserError(f"the baseline {name!r} is no arm of the sweep")
        if len({*self.seeds}) != len(self.seeds) or not self.seeds:
            raise UserError(f"seeds must be there and differ, but are {tuple(self.seeds)}")


def needs(arm: Arm) -> list[str]:
    """Names of the trained arms whose runs ``arm`` reads."""
    if isinstance(arm, Train):
        return [arm.start] if arm.start else []
    if isinstance(arm, Evaluate):
        return [arm.of]
    return arm.needs if isinstance(arm, Measure) else []


def is_seeded(arm: Arm) -> bool:
    """Whether an arm runs once for each seed."""
    return not isinstance(arm, Measure) or bool(arm.needs)


def with_seeds(sweep: Sweep, seeds: Sequence[int]) -> Sweep:
    """The sweep with other seeds."""
    return dataclasses.replace(sweep, seeds=tuple(seeds), tuned_from=sweep.start_seed)
