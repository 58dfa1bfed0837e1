"""Comparisons of few seeds, and fits of powers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import stats

_TOO_FEW = "too few seeds"


@dataclass(frozen=True)
class Comparison:
    """An arm against the baseline, over the seeds that both have.

    Attributes:
      difference: of the means.
      p: two-sided, of the paired t-test; None for fewer than two seeds, or if all differences are equal.
      verdict: ``"higher"``, ``"lower"`` or ``"none"``: a difference that is not larger than the larger of the ranges of
        both sides, from lowest to highest value, is called none. With one seed there is no range, and two are that far
        apart by chance in one case of five: ``"too few seeds"``.
    """

    difference: float
    p: float | None
    verdict: str


def compare(arm: dict[int, float], baseline: dict[int, float]) -> Comparison | None:
    """Values by seed against those of the baseline; None if they have no seed in common."""
    seeds = sorted(arm.keys() & baseline.keys())
    if not seeds:
        return None
    one, other = np.array([arm[seed] for seed in seeds]), np.array([baseline[seed] for seed in seeds])
    difference = float(one.mean() - other.mean())
    if len(seeds) < 2:
        return Comparison(difference, None, _TOO_FEW)
    rounding = 1e-9 * np.abs([one, other]).max()
    # Differences that are equal but for rounding say nothing of how much they vary.
    varies = np.ptp(one - other) > rounding
    p = float(stats.ttest_rel(one, other).pvalue) if varies else None
    if len(seeds) < 3:
        verdict = _TOO_FEW
    elif abs(difference) <= max(np.ptp(one), np.ptp(other)) + rounding:
        verdict = "none"
    else:
        verdict = "higher" if difference > 0 else "lower"
    return Comparison(difference, p, verdict)


@dataclass(frozen=True)
class Power:
    """y = factor · x^exponent, fitted by least squares of the logarithms.

    Attributes:
      error: standard error of the exponent; not finite for two points, which leave none.
    """

    factor: float
    exponent: float
    error: float

    def __call__(self, x: float) -> float:
        return self.factor * x**self.exponent


def fit_power(x: Sequence[float], y: Sequence[float]) -> Power | None:
    """The power law through points with positive coordinates; None for fewer than two different x."""
    if len({*x}) < 2:
        return None
    log_x, log_y = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    from_mean = log_x - log_x.mean()
    spread = float((from_mean**2).sum())
    exponent = float((from_mean * log_y).sum()) / spread
    factor = float(log_y.mean() - exponent * log_x.mean())
    rest = log_y - factor - exponent * log_x
    error = math.sqrt(float((rest**2).sum()) / (len(x) - 2) / spread) if len(x) > 2 else math.inf
    return Power(math.exp(factor), exponent, error)


def crossings(x: Sequence[float], one: Sequence[float], other: Sequence[float]) -> list[tuple[float, bool]]:
    """Each x at which two curves cross, in ascending order, and whether ``one`` is above ``other`` from there on.

    Between points curves are straight in logarithms. All are positive, of the same length, and ``x`` ascends. Where
    curves are equal they cross at the first of these points, if they are on different sides before and after.
    """
    logs = np.log(np.asarray(one, float)) - np.log(np.asarray(other, float))
    places = np.log(np.asarray(x, float))
    apart = np.flatnonzero(logs)
    found = []
    for i, j in pairwise(apart):
        before, after = logs[i], logs[j]
        if before * after < 0:
            # Through the point at which they are equal, if there is one.
            place = places[i + 1] if j > i + 1 else (before * places[j] - after * places[i]) / (before - after)
            found.append((math.exp(place), bool(after > 0)))
    return found
