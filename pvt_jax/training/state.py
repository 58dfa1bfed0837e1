"""What training carries from step to step, and its form on disk."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import serialization, struct

from pvt_jax.training.optimizer import Tree, split


class TrainState(struct.PyTreeNode):
    """The state of a run; randomness needs none, since keys derive from the seed and ``step``.

    step: int32 scalar, updates done or skipped. params, batch_stats: Flax collections (batch_stats may be empty).
    ema_params: moving average of params, empty when it is off. opt_state: Optax's, of the trained parameters alone.
    """

    step: jax.Array
    params: Tree
    batch_stats: Tree
    ema_params: Tree
    opt_state: Any

    @classmethod
    def create(
        cls, variables: Tree, optimizer: optax.GradientTransformation, *, ema: bool, frozen: str = ""
    ) -> "TrainState":
        """State before the first step; ``frozen`` as for ``optimizer.split``."""
        params = variables["params"]
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables.get("batch_stats", {}),
            ema_params=jax.tree.map(jnp.copy, params) if ema else {},
            opt_state=optimizer.init(split(params, frozen)[0]),
        )

    def variables(self, *, ema: bool = False) -> Tree:
        """For ``model.apply``."""
        collections = {"params": self.ema_params if ema else self.params}
        return {**collections, "batch_stats": self.batch_stats} if self.batch_stats else collections

    def to_items(self) -> dict[str, Tree]:
        """Plain nested dicts, one tree an item on disk; the step is the name of the checkpoint."""
        return {
            "params": self.params,
            "batch_stats": self.batch_stats,
            "ema_params": self.ema_params,
            "opt_state": serialization.to_state_dict(self.opt_state),
        }

    def from_items(self, step: int, items: dict[str, Tree]) -> "TrainState":
        """The state that ``to_items`` described, with the structure of this one."""
        return self.replace(
            step=jnp.asarray(step, jnp.int32),
            params=items["params"],
            batch_stats=items["batch_stats"],
            ema_params=items["ema_params"],
            opt_state=serialization.from_state_dict(self.opt_state, items["opt_state"]),
        )
