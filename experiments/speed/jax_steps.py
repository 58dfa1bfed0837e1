"""One step of a model of ``pvt_jax``, for ``compare_pytorch.py``."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from experiments.speed.cases import DETECTORS, IMAGE_CLASSES, OBJECT_CLASSES, OBJECTS, PIXEL_CLASSES, SEGMENTERS
from pvt_jax.compilation import compiler_options
from pvt_jax.models import create_model
from pvt_jax.tasks.segmentation.loss import segmentation_cross_entropy


def jax_step(arguments: argparse.Namespace) -> tuple[Callable[[], Any], dict[str, Any]]:
    """A function that runs one step and waits for it, and facts about the model and its compilation."""
    model, targets = model_and_targets(arguments)
    images = jax.random.normal(jax.random.key(0), (arguments.batch_size, *arguments.image_size, 3))
    init = jax.jit(model.init, compiler_options=compiler_options("init"))
    variables = init(jax.random.key(2), jnp.zeros((1, *arguments.image_size, 3)))
    params, rest = variables["params"], {name: tree for name, tree in variables.items() if name != "params"}
    optimizer = optax.adamw(1e-3, weight_decay=0.05)

    def update(state: Any, images: jax.Array) -> tuple[Any, jax.Array]:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            return loss_of(arguments.model, model, {"params": params, **state[2]}, images, targets)

        (value, rest), gradients = jax.value_and_grad(loss, has_aux=True)(state[0])
        updates, optimizer_state = optimizer.update(gradients, state[1], state[0])
        return (optax.apply_updates(state[0], updates), optimizer_state, rest), value

    facts = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "versions": f"jax {jax.__version__}, flax {flax.__version__}, {jax.default_backend()}",
    }
    start = time.perf_counter()
    if arguments.mode == "infer":
        forward = jax.jit(lambda variables, images: model.apply(variables, images))
        compiled = forward.lower(variables, images).compile(compiler_options("infer"))
        facts["compile_seconds"] = time.perf_counter() - start
        return lambda: jax.block_until_ready(compiled(variables, images)), facts

    state = [(params, optimizer.init(params), rest)]
    compiled = jax.jit(update, donate_argnums=0).lower(state[0], images).compile(compiler_options("train"))
    facts["compile_seconds"] = time.perf_counter() - start

    def step() -> None:
        state[0], _ = compiled(state[0], images)
        jax.block_until_ready(state[0])

    return step, facts


def model_and_targets(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The model, without dropout and stochastic depth, and the targets of its batch."""
    name, _, head = arguments.model.partition("+")
    (height, width), batch, key = arguments.image_size, arguments.batch_size, jax.random.key(1)
    if arguments.model in SEGMENTERS:
        model = create_model(name, head=head, head_settings={"dropout_rate": 0.0}, num_classes=PIXEL_CLASSES)
        return model, jax.random.randint(key, (batch, height, width), 0, PIXEL_CLASSES).astype("uint8")
    if arguments.model not in DETECTORS:
        labels = jax.random.randint(key, (batch,), 0, IMAGE_CLASSES)
        return create_model(name, image_size=arguments.image_size, num_classes=IMAGE_CLASSES), labels
    # Objects of a tenth to a third of the image's sides, as for the baseline.
    corner, side, label = jax.random.split(key, 3)
    scale = jnp.array([width, height], jnp.float32)
    corners = jax.random.uniform(corner, (batch, OBJECTS, 2), maxval=0.6) * scale
    sides = jax.random.uniform(side, (batch, OBJECTS, 2), minval=0.1, maxval=0.35) * scale
    targets = {
        "boxes": jnp.concatenate([corners, corners + sides], axis=-1),
        "labels": jax.random.randint(label, (batch, OBJECTS), 0, OBJECT_CLASSES),
        "valid": jnp.ones((batch, OBJECTS), bool),
        "masks": jnp.full((batch, OBJECTS, 112, 112), 255, jnp.uint8),
    }
    return create_model(name, head=head, num_classes=OBJECT_CLASSES), targets


def loss_of(name: str, model: Any, variables: Any, images: jax.Array, targets: Any) -> tuple[jax.Array, Any]:
    """(loss, collections that training updates) of a batch."""
    rngs = {"dropout": jax.random.key(3), "sample": jax.random.key(4)}
    options: Any = {"mutable": ["batch_stats"], "rngs": rngs}
    if name in DETECTORS:
        parts, changed = model.apply(variables, images, targets, method="losses", **options)
        return sum(parts.values(), jnp.zeros(())), changed
    logits, changed = model.apply(variables, images, train=True, **options)
    if name in SEGMENTERS:
        losses, counts = segmentation_cross_entropy(logits, targets)
        return losses.sum() / counts.sum(), changed
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(), changed
