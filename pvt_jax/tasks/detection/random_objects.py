"""Ground truth without data, for what measures a step."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

# Objects of an image where ``detection.max_objects`` does not say it; COCO has 7 on average.
RANDOM_OBJECTS = 10
# Range of their sides, as shares of the image's.
_SIDES = (0.1, 0.35)


def random_objects(
    key: Key[Array, ""], size: Int[Array, "b 2"], count: int, num_classes: int, mask_side: int
) -> dict[str, Array]:
    """``count`` objects in images of ``size`` (height, width), as training batches have them.

    ``boxes`` float32 [b, n, 4], ``labels`` int32 [b, n], ``valid`` bool [b, n]; and, unless ``mask_side`` is 0,
    ``masks`` uint8 [b, n, mask_side, mask_side], which fill their boxes.
    """
    corner, side, label = jax.random.split(key, 3)
    shape = (size.shape[0], count)
    scale = size[:, None, ::-1].astype(jnp.float32)
    sides = jax.random.uniform(side, (*shape, 2), minval=_SIDES[0], maxval=_SIDES[1])
    corners = jax.random.uniform(corner, (*shape, 2)) * (1.0 - sides)
    objects = {
        "boxes": jnp.concatenate([corners * scale, (corners + sides) * scale], axis=-1),
        "labels": jax.random.randint(label, shape, 0, num_classes),
        "valid": jnp.ones(shape, bool),
    }
    return {**objects, "masks": jnp.full((*shape, mask_side, mask_side), 255, jnp.uint8)} if mask_side else objects
