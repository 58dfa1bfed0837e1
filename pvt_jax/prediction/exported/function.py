"""What is exported of a trained model: a function of named weights and images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from pvt_jax.errors import UserError
from pvt_jax.messages import did_you_mean
from pvt_jax.prediction.trained import Trained

Preprocess = Literal["inside", "outside"]
# Outputs by name of images [b, h, w, 3].
Outputs = Callable[[Any], dict[str, Any]]
# (height, width) of images.
Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Function:
    """(weights by name, images [b, h, w, 3]) → outputs by name, as ``Task.predict`` gives them.

    Weights are arguments, not constants: programs for several sizes then share them.

    Attributes:
      trained: the model.
      preprocess: "inside": it takes uint8 images and normalises them; "outside": normalised float32 images.
      outputs: names of what it gives.
    """

    trained: Trained
    preprocess: Preprocess
    outputs: tuple[str, ...]

    def __call__(self, weights: Mapping[str, Any], images: Any) -> dict[str, jax.Array]:
        task = self.trained.task
        images = task.normalise(images) if self.preprocess == "inside" else images.astype(task.model.dtype)
        found = task.predict(unflatten_dict(dict(weights), sep="/"), images, self.outputs)
        return {name: found[name] for name in self.outputs}

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """Arrays by their path in the variables, as "params/head/linear/kernel"."""
        flat: Any = flatten_dict(jax.device_get(self.trained.variables), sep="/")
        return {name: np.asarray(leaf) for name, leaf in flat.items()}

    @property
    def input_dtype(self) -> np.dtype:
        """Of the images."""
        return np.dtype(np.uint8 if self.preprocess == "inside" else np.float32)

    def arguments(self, size: Size, batch: Any) -> tuple[dict[str, jax.ShapeDtypeStruct], Any]:
        """Shapes of weights and of ``batch`` images of ``size``."""
        weights = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in self.weights.items()}
        return weights, jax.ShapeDtypeStruct((batch, *size, 3), self.input_dtype)

    def input(self, images: np.ndarray) -> np.ndarray:
        """Images, uint8 [b, h, w, 3], as the function takes them."""
        if self.preprocess == "inside":
            return images
        return np.asarray(self.trained.task.normalise(jnp.asarray(images)), np.float32)


def function_of(trained: Trained, preprocess: Preprocess = "inside", outputs: Sequence[str] = ()) -> Function:
    """The function of a model, with all outputs but large ones, or with those named.

    Raises UserError: the task has none, or none of this name.
    """
    task = trained.task
    if not task.outputs:
        raise UserError(f"task {trained.config.task!r} exports nothing: give it ``predict`` and ``outputs``")
    for name in outputs:
        if name not in task.outputs:
            near = did_you_mean(name, task.outputs)
            raise UserError(f"the model has no output {name!r}{near}: choose from {', '.join(task.outputs)}")
    chosen = [name for name in task.outputs if (name in outputs if outputs else name not in task.large_outputs)]
    return Function(trained, preprocess, tuple(chosen))
