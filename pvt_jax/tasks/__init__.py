"""Tasks: what to build, the loss of a batch, the prediction of a batch. ``TASKS`` is the registry."""

from pvt_jax.tasks.classification import Classification

TASKS = {"classification": Classification}
