"""Where a model attends in each image: the attention weights of one block, drawn over what the model sees."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from pvt_jax.errors import UserError
from pvt_jax.messages import did_you_mean
from pvt_jax.nn.layers import AttentionMap
from pvt_jax.tasks.task import Batch, Task
from pvt_jax.visualization.attention import overlay_attention
from pvt_jax.visualization.panels import Picture, composed, fitted

_SIDE = 512


@dataclass(frozen=True, eq=False)
class Attention:
    """Attention weights over an image.

    Attributes:
      block: as "stage4/block1".
      weights: float32 [rows, columns], the mean over attention heads: those of the class token, or where there is none
        of all positions on average.
      image: what the model sees of the image, resized and perhaps cropped: uint8 [h, w, 3].
      region: (height, width) that ``weights`` span: those of ``image``, or more where padding fills it up.
    """

    block: str
    weights: np.ndarray
    image: Picture
    region: tuple[int, int]

    def picture(self) -> Picture:
        """The image, and beside it the weights over it, from the smallest to the largest; uint8 [h, w, 3].

        The title has both in units of the mean: averaged weights may be nearly alike.
        """
        height, width = self.image.shape[:2]
        filled = np.zeros((*self.region, 3), np.uint8)
        filled[:height, :width] = self.image
        # Enlarged first, so that the weights are interpolated in the pixels that are shown.
        canvas = np.asarray(fitted(filled, _SIDE, Image.Resampling.BOX))
        part = tuple(slice(-(-side * len(canvas) // self.region[0])) for side in (height, width))
        low, high = float(self.weights.min()), float(self.weights.max())
        mean = float(self.weights.mean()) or 1.0
        title = f"{self.block}: {low / mean:.2f} to {high / mean:.2f} times the mean"
        panels = {"image": canvas[part], title: overlay_attention(canvas, self.weights - low)[part]}
        return composed({title: Image.fromarray(panel) for title, panel in panels.items()}, [])


def block_of(task: Task, variables: Any, wanted: str) -> str:
    """The name of a block of the model: ``wanted``, or the last block of the stage ``wanted``.

    Of a model without stages, as ViT, "stage4" is the last block. Raises UserError: the model has no such block, or no
    attention.
    """
    images = jnp.zeros((1, *task.image_size, 3))
    names: list[str] = []
    apply: Callable[..., Any] = task.model.apply
    jax.eval_shape(lambda given, images: names.extend(apply(given, images, method="attention_maps")), variables, images)
    stages = list(dict.fromkeys(name.partition("/")[0] for name in names if "/" in name))
    if wanted in names:
        return wanted
    if wanted in stages:
        return [name for name in names if name.startswith(f"{wanted}/")][-1]
    if wanted == "stage4" and not stages:
        return names[-1]
    known = stages or names
    raise UserError(
        f"the model has no {wanted!r} to draw attention of{did_you_mean(wanted, [*stages, *names])}: give "
        f"{known[0]} … {known[-1]}" + f", or a block, as {names[-1]}" * bool(stages)
    )


def weights_of(task: Task, variables: Any, batch: Batch, block: str) -> dict[str, jax.Array]:
    """What ``attended`` needs of an evaluation batch, computed on the devices: each array with the batch as axis 0."""
    seen = task.seen(batch)
    # A classifier takes no sizes.
    given = {} if seen.region is None else {"sizes": seen.region}
    apply: Callable[..., Any] = task.model.apply
    found: AttentionMap = apply(variables, seen.normalised, method="attention_maps", **given)[block]
    whole = jnp.broadcast_to(jnp.array(seen.images.shape[1:3], jnp.int32), seen.size.shape)
    keys = jnp.broadcast_to(jnp.array(found.key_grid, jnp.int32), seen.size.shape)
    return {
        "weights": found.of_keys(),
        "keys": keys if found.key_sizes is None else found.key_sizes,
        "region": whole if seen.region is None else seen.region,
        "image": seen.images,
        "size": seen.size,
    }


def attended(found: dict[str, np.ndarray], block: str) -> Attention:
    """The attention over one image, from a row of ``weights_of``."""
    (height, width), (rows, columns), region = found["size"], found["keys"], found["region"].tolist()
    return Attention(block, found["weights"][:rows, :columns], found["image"][:height, :width], tuple(region))
