"""AdamW as the references use it: decay mask, warm-up and schedule, clipping, and a guard against non-finite updates.

For fine-tuning and dense tasks also learning rates by layer or component, and frozen parameters.
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.tree_util import Partial

from pvt_jax.errors import UserError
from pvt_jax.training.options import OptimizerOptions
from pvt_jax.training.sharding import SMALLEST_SHARDED_LEAF

# Step → learning rate. The schedules below are pytrees of their numbers: a program that takes one as an argument is not
# compiled anew for other numbers.
Schedule = Callable[[Any], jax.Array]
# Nested dicts of arrays, or of what belongs to each array.
Tree = Any


def scaled_learning_rate(learning_rate: float, base_batch_size: int, batch_size: int) -> float:
    """The recipe's rate at its own global batch, scaled linearly to another (arXiv 1706.02677)."""
    return learning_rate * batch_size / base_batch_size


def constant(rate: float) -> Schedule:
    """The same learning rate at every step."""
    return _schedule(_constant, rate)


def _constant(rate: Any, step: Any) -> jax.Array:
    return jnp.asarray(rate, jnp.float32)


def warmup_cosine(peak: float, initial: float, final: float, warmup_steps: int, total_steps: int) -> Schedule:
    """Learning rate by step: linear from ``initial`` to ``peak``, then half a cosine to ``final``.

    The cosine runs over all of ``total_steps`` and the warm-up takes the place of its beginning, as in the references
    (timm's scheduler); they step once an epoch, this steps every update.
    """
    return _schedule(_warmup_cosine, peak, initial, final, warmup_steps, total_steps)


def _warmup_cosine(peak: Any, initial: Any, final: Any, warmup_steps: Any, total_steps: Any, step: Any) -> jax.Array:
    warmup = initial + (peak - initial) * step / jnp.maximum(warmup_steps, 1)
    cosine = final + (peak - final) * 0.5 * (1.0 + jnp.cos(math.pi * jnp.minimum(step / total_steps, 1.0)))
    return jnp.where(step < warmup_steps, warmup, cosine).astype(jnp.float32)


def warmup_poly(
    peak: float, initial: float, final: float, warmup_steps: int, total_steps: int, power: float
) -> Schedule:
    """Learning rate by step: ``final`` + (``peak`` - ``final``) · (1 - step / ``total_steps``) ^ ``power``.

    During the warm-up it goes from ``initial`` to that curve, in equal shares a step, as in MMSegmentation.
    """
    return _schedule(_warmup_poly, peak, initial, final, warmup_steps, total_steps, power)


def _warmup_poly(
    peak: Any, initial: Any, final: Any, warmup_steps: Any, total_steps: Any, power: Any, step: Any
) -> jax.Array:
    left = jnp.maximum(1.0 - step / total_steps, 0.0)
    curve = final + (peak - final) * left**power
    return (initial + (curve - initial) * _share(step, warmup_steps)).astype(jnp.float32)


def warmup_step(
    peak: float, initial: float, final: float, warmup_steps: int, drops: Sequence[int], factor: float
) -> Schedule:
    """Learning rate by step: ``peak``, times ``factor`` from each step in ``drops`` on, but never below ``final``.

    The warm-up is linear from ``initial``, as in mmdetection.
    """
    return _schedule(_warmup_step, peak, initial, final, warmup_steps, tuple(drops), factor)


def _warmup_step(
    peak: Any, initial: Any, final: Any, warmup_steps: Any, drops: tuple[Any, ...], factor: Any, step: Any
) -> jax.Array:
    dropped = sum((jnp.where(step >= drop, 1, 0) for drop in drops), jnp.zeros((), jnp.int32))
    rate = jnp.maximum(peak * factor**dropped, final)
    return (initial + (rate - initial) * _share(step, warmup_steps)).astype(jnp.float32)


def _share(step: Any, warmup_steps: Any) -> jax.Array:
    """The share of the warm-up that is done, 0 to 1; 1 if there is none."""
    return jnp.where(warmup_steps > 0, jnp.minimum(step / jnp.maximum(warmup_steps, 1), 1.0), 1.0)


def _schedule(function: Callable[..., jax.Array], *numbers: Any) -> Schedule:
    """``function`` of numbers and a step, in the types of arrays: Python's own would be weak, and another program."""
    return Partial(function, *jax.tree.map(lambda n: np.float32(n) if isinstance(n, float) else np.int32(n), numbers))


def decay_mask(params: Tree, decayed: str = "matrices") -> Tree:
    """True where weight decay applies.

    ``decayed``: ``"matrices"`` as in the classifiers' recipes: not on 1-d parameters (biases, norms), the class token
    and class queries; PVT decays the position tables of its stages, the one table of a ViT or a Trans2Seg is not
    decayed, as in DeiT (arXiv 2012.12877). ``"all_but_norms"`` as in mmdetection's recipes with AdamW;
    ``"all_but_backbone_norms"`` as in MMSegmentation's SegFormer (arXiv 2105.15203), whose rule goes by names and
    does not find the batch norm of the head; ``"all"`` as in Semantic FPN's.
    """

    def decays(path: tuple[Any, ...], leaf: Any) -> bool:
        names = [part.key for part in path if part.key != "backbone"]
        if decayed == "matrices":
            tokens = ("cls_token", "class_queries")
            return leaf.ndim > 1 and names[-1] not in tokens and names not in (["pos_embed"], ["head", "pos_embed"])
        in_head = component_of([part.key for part in path]) == "head"
        if decayed == "all" or (decayed == "all_but_backbone_norms" and in_head):
            return True
        return not any("norm" in name for name in names)

    return jax.tree_util.tree_map_with_path(decays, params)


def component_of(path: list[str]) -> str:
    """``"backbone"``, ``"neck"`` or ``"head"``: where a parameter belongs; a classifier's is told by its path too."""
    return path[0] if path[0] in ("neck", "head") else "backbone"


def split(params: Tree, frozen: str) -> tuple[Tree, Tree]:
    """(what is trained, what is not) of ``params``; ``joined`` makes the whole of them again.

    ``frozen`` is empty for nothing, ``"backbone"`` for everything but neck and head, or ``"stage1"`` for the stem and
    first stage of a backbone. They are told apart by their names, so that gradients, moments and decay are never made
    for what is not trained.
    """
    if not frozen:
        return params, {}

    def is_fixed(path: tuple[str, ...]) -> bool:
        if component_of(list(path)) != "backbone":
            return False
        return frozen == "backbone" or path[path[0] == "backbone"] in ("stem", frozen)

    flat = flatten_dict(params)
    trained, fixed = ({path: x for path, x in flat.items() if is_fixed(path) == kept} for kept in (False, True))
    return unflatten_dict(trained), unflatten_dict(fixed)


def joined(trained: Tree, fixed: Tree) -> Tree:
    """The inverse of ``split``."""
    return unflatten_dict({**flatten_dict(trained), **flatten_dict(fixed)}) if fixed else trained


def layer_numbers(params: Tree) -> Tree:
    """The number of each parameter's layer, from 0 at the image to L + 1 at the head of a network of L blocks.

    As in BEiT (arXiv 2106.08254) and ELECTRA (2003.10555): 0 holds the first patch embedding with its norm, position
    table and class token (in a ResNet the stem), i + 1 the block i, and L + 1 the final norm and the head. A pyramid's
    blocks are numbered through its stages. A later stage's patch embedding, position table and norms, and in all stages
    the norm at the end, belong to the layer of the stage's first block; so does the class token, which PVT v1 adds in
    its last stage. What stands on the backbone of a dense model, neck and head, is of layer L + 1. Raises UserError: a
    parameter lies at a path for which there is no rule.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [[part.key for part in path] for path, _ in leaves]
    paths = [path[1:] if path[0] == "backbone" else path for path in paths]
    # Without stages (ViT) all blocks are of stage 0.
    places = [_place(path) for path in paths if component_of(path) == "backbone"]
    blocks = sorted({place for place in places if place[1] is not None})
    stages = sorted({stage for stage, _ in places if stage > 0})

    def number(path: list[str]) -> int:
        if path[0] == "norm" or component_of(path) != "backbone":
            return len(blocks) + 1
        stage, block = _place(path)
        if block is not None:
            return blocks.index((stage, block)) + 1
        if path[0] == "cls_token" and stages:
            stage = stages[-1]
        if stage > 0 and (stage > stages[0] or path[1] == "norm"):
            return blocks.index((stage, 0)) + 1
        if stage > 0 or path[0] in ("stem", "patch_embed", "pos_embed", "cls_token"):
            return 0
        raise UserError(f"optimizer.layer_decay has no layer for the parameter {'/'.join(path)}: set it to 1.0")

    return jax.tree.unflatten(jax.tree.structure(params), [number(path) for path in paths])


def _place(path: list[str]) -> tuple[int, int | None]:
    """(stage from 1, or 0 outside of stages; block of that stage, or None outside of blocks) of a parameter's path."""
    found = re.match(r"(?:stage(\d+)/)?(?:block(\d+)/)?", "/".join(path))
    assert found is not None  # Both parts are optional.
    return int(found[1] or 0), None if found[2] is None else int(found[2])


def scale_by_layer(decay: float) -> optax.GradientTransformation:
    """Multiply the update of layer l by ``decay`` to the power of its distance from the head, L + 1 - l."""

    def update(updates: Tree, params: Tree = None) -> Tree:
        numbers = layer_numbers(updates)
        head = max(jax.tree.leaves(numbers))
        return jax.tree.map(lambda change, number: change * decay ** (head - number), updates, numbers)

    return optax.stateless(update)


def scale_by_component(multipliers: dict[str, float]) -> optax.GradientTransformation:
    """Multiply the update of each parameter by that of its component, see ``component_of``; by 1 if it has none."""

    def update(updates: Tree, params: Tree = None) -> Tree:
        def scaled(path: tuple[Any, ...], change: jax.Array) -> jax.Array:
            return change * multipliers.get(component_of([part.key for part in path]), 1.0)

        return jax.tree_util.tree_map_with_path(scaled, updates)

    return optax.stateless(update)


def scale_by_given_rate() -> optax.GradientTransformationExtraArgs:
    """Multiply the update by -``learning_rate``, which ``update`` takes.

    As ``optax.scale_by_learning_rate`` with a schedule, and with its state, so checkpoints of either restore.
    """

    def init(params: Tree) -> optax.ScaleByScheduleState:
        return optax.ScaleByScheduleState(jnp.zeros([], jnp.int32))

    def update(
        updates: Tree, state: Any, params: Tree = None, *, learning_rate: Any, **_: Any
    ) -> tuple[Tree, optax.ScaleByScheduleState]:
        scaled = jax.tree.map(lambda change: jnp.array(-learning_rate, change.dtype) * change, updates)
        return scaled, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType] (``learning_rate`` is required)


def adamw(options: OptimizerOptions) -> optax.GradientTransformationExtraArgs:
    """AdamW (arXiv 1711.05101) after clipping by global norm, guarded as ``if_finite`` does.

    ``update`` takes the ``learning_rate`` of the step. A layer or component with its own learning rate also has its own
    weight decay, see ``scale_by_layer`` and ``scale_by_component``.
    """
    clip = [clip_by_norm(options.clip_norm)] if options.clip_norm > 0 else []
    mask = partial(decay_mask, decayed=options.decayed)
    # ``optax.adamw``, with the learning rate given by the caller.
    update = optax.chain(
        optax.scale_by_adam(options.b1, options.b2, options.eps),
        optax.add_decayed_weights(options.weight_decay, mask),
        scale_by_given_rate(),
    )
    # After AdamW, whose result does not depend on the scale of the gradient.
    layers = [scale_by_layer(options.layer_decay)] if options.layer_decay < 1 else []
    multipliers = {"backbone": options.backbone_multiplier, "head": options.head_multiplier}
    layers += [scale_by_component(multipliers)] if set(multipliers.values()) != {1.0} else []
    return if_finite(optax.chain(*clip, update, *layers))


def global_norm(tree: Tree) -> jax.Array:
    """The Euclidean norm of all elements of a tree; float32, 0 of an empty tree."""
    leaves = [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(tree)]
    # Most parameters are small, and none of those is divided over devices: one sum for all of them is one or two
    # kernels, not a hundred.
    small = [leaf.reshape(-1) for leaf in leaves if leaf.size < SMALLEST_SHARDED_LEAF]
    parts = [leaf for leaf in leaves if leaf.size >= SMALLEST_SHARDED_LEAF]
    parts += [jnp.concatenate(small)] if small else []
    return jnp.sqrt(sum((jnp.sum(jnp.square(part)) for part in parts), jnp.zeros(())))


def clip_by_norm(limit: float) -> optax.GradientTransformationExtraArgs:
    """Scale gradients down to a norm of ``limit`` where theirs, ``norm``, is larger.

    ``optax.clip_by_global_norm``, but ``update`` takes the norm if that is known.
    """

    def update(updates: Tree, state: Any, params: Tree = None, *, norm: Any = None, **_: Any) -> tuple[Tree, Any]:
        norm = global_norm(updates) if norm is None else norm
        return jax.tree.map(lambda g: jnp.where(norm < limit, g, g / norm.astype(g.dtype) * limit), updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def if_finite(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """``inner``, but a gradient whose norm is not finite changes nothing: no parameter, and no state of ``inner``.

    As ``optax.apply_if_finite``, with its state, which counts what was skipped: ``total_notfinite``, and
    ``notfinite_count`` in a row. That looks at every element of every gradient; here their one norm tells, which a step
    computes anyway. A norm that overflows although no element does, above 1.8e19, would leave infinite moments behind.
    ``update`` takes ``norm``, the gradient's ``global_norm`` if that is known, and ``finite``: what else must hold.
    Further arguments go to ``inner``.
    """
    guarded = optax.with_extra_args_support(inner)

    def init(params: Tree) -> optax.ApplyIfFiniteState:
        none = jnp.zeros([], jnp.int32)
        return optax.ApplyIfFiniteState(none, jnp.array(True), none, guarded.init(params))

    def update(
        updates: Tree,
        state: Any,
        params: Tree = None,
        *,
        norm: Any = None,
        finite: jax.Array | bool = True,
        **extra: Any,
    ) -> tuple[Tree, optax.ApplyIfFiniteState]:
        norm = global_norm(updates) if norm is None else norm
        finite = jnp.isfinite(norm) & finite
        updates, inner_state = guarded.update(updates, state.inner_state, params, norm=norm, **extra)
        # Unlike a conditional, a choice by element is a part of the kernel that computes the update.
        updates = jax.tree.map(lambda change: jnp.where(finite, change, jnp.zeros_like(change)), updates)
        inner_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), inner_state, state.inner_state)
        count, total = optax.safe_increment(state.notfinite_count), optax.safe_increment(state.total_notfinite)
        return updates, optax.ApplyIfFiniteState(
            notfinite_count=jnp.where(finite, 0, count),
            last_finite=finite,
            total_notfinite=jnp.where(finite, state.total_notfinite, total),
            inner_state=inner_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)
