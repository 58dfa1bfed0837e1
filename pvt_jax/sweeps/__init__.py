"""Experiments as lists of runs: what a ``sweep.py`` is made of, how it is run, and how its results are shown."""

from pvt_jax.sweeps.figures import Curves, Dots, Lines
from pvt_jax.sweeps.spec import Arm, Column, Evaluate, Measure, Sweep, Train, Tuning

__all__ = ["Arm", "Column", "Curves", "Dots", "Evaluate", "Lines", "Measure", "Sweep", "Train", "Tuning"]
