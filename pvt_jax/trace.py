"""What tracing a model tells without running it: its multiply-accumulates, and what training keeps in memory.

``traced_multiply_accumulates`` counts them in the jaxpr of ``model.apply``; ``backbones/cost.py`` has them from
formulas, in the same convention. Neither knows the other.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from pvt_jax.ops.cross_entropy import soft_cross_entropy

# These functions compute a convolution by elementwise products.
_SHIFTED_CONVOLUTIONS = ("depthwise_conv3x3",)
# Primitives that hold a program which runs once, with the equation's inputs in the same order.
_CALLS = ("jit", "pjit", "closed_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call")
# Patterns of names and the parts that they belong to.
Parts = Sequence[tuple[str, str]]
# Primitives that, where they keep the size, change the shape and move no data.
_VIEWS = ("reshape", "squeeze", "broadcast_in_dim")


class Origin(IntEnum):
    """What a value was computed from; of several, the greatest."""

    CONSTANT = 0
    PARAMETER = 1
    IMAGE = 2


@dataclasses.dataclass
class Products:
    """Multiply-accumulates of one part of a model.

    weights: products with parameters: linear maps and convolutions. attention: products of two things computed from the
    image. resampling: products with fixed matrices, as in resized position tables and adaptive pooling; in no total.
    """

    weights: int = 0
    attention: int = 0
    resampling: int = 0


def traced_multiply_accumulates(
    model: nn.Module, height: int, width: int, batch: int = 1, *, variables: Any = None
) -> dict[str, Products]:
    """Products of the classifier by part, named as in ``multiply_accumulates``, for ``batch`` images.

    ``variables``, or their shapes and types, may be given if they are known: finding them takes most of the time.

    Only the part depends on names: whether a product is of weights, attention or resampling follows from what its
    factors were computed from.

    Raises:
      UserError: the images are too small for the model.
      NotImplementedError: the program has products in a loop or branch that may run any number of times.
    """
    images = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.float32)
    variables = abstract_variables(model, height, width) if variables is None else variables
    return _products(model.apply, variables, images, counter=_Counter(_parts_of(model)))


def function_products(function: Callable[..., Any], variables: Any, *inputs: Any) -> Products:
    """Products of ``function(variables, *inputs)``, where all ``inputs`` count as images; all may be shapes and types.

    Those in a loop that may run any number of times, such as the interpolation of RoIAlign, are left out.

    Raises:
      NotImplementedError: the program has products in a branch.
    """
    found = _products(function, variables, *inputs, counter=_Counter(skips_loops=True)).values()
    return Products(*(sum(getattr(one, field.name) for one in found) for field in dataclasses.fields(Products)))


def _products(function: Callable[..., Any], variables: Any, *inputs: Any, counter: "_Counter") -> dict[str, Products]:
    program = jax.make_jaxpr(function)(variables, *inputs)
    parameters, images = (len(jax.tree.leaves(tree)) for tree in (variables, inputs))
    counter.walk(program.jaxpr, [Origin.PARAMETER] * parameters + [Origin.IMAGE] * images, path=(), times=1)
    return dict(counter.found)


def abstract_variables(model: nn.Module, height: int, width: int) -> Any:
    """Shapes and types of the variables of ``model``."""
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    return jax.eval_shape(lambda key, images: model.init(key, images), jax.random.key(0), images)


def parameters_by_part(model: nn.Module, variables: Any) -> dict[str, int]:
    """How many parameters each part has; the parts are those of ``multiply_accumulates``."""
    counts: dict[str, int] = defaultdict(int)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        counts[_part([path[0].key], _parts_of(model))] += leaf.size
    return dict(counts)


class _Counter:
    """Walks through a program and adds its products to ``found``; ``parts`` are those of ``Backbone``.

    ``skips_loops`` leaves out what runs any number of times, in place of an error.
    """

    def __init__(self, parts: Parts = (), skips_loops: bool = False):
        self.parts, self.skips_loops = parts, skips_loops
        self.found: dict[str, Products] = defaultdict(Products)

    def walk(
        self, program: Jaxpr, origins: Sequence[Origin], path: tuple[str, ...], times: int, elementwise: bool = False
    ) -> list[Origin]:
        """Origins of the outputs, from those of the inputs; the products of every equation count ``times``.

        ``path`` leads to the program by modules' names. ``elementwise`` counts multiplications as products.
        """
        known = dict(zip(program.invars, origins, strict=True))

        def origin(value: Any) -> Origin:
            return Origin.CONSTANT if isinstance(value, Literal) else known.get(value, Origin.CONSTANT)

        for equation in program.eqns:
            inputs = [origin(value) for value in equation.invars]
            here = (*path, *str(equation.source_info.name_stack).split("/"))
            outputs = [max(inputs, default=Origin.CONSTANT)] * len(equation.outvars)
            primitive, inner = equation.primitive.name, list(_programs(equation))
            if primitive in ("dot_general", "conv_general_dilated") or (elementwise and primitive == "mul"):
                self._add(_part(here, self.parts), inputs, times * _multiplications(equation))
            elif primitive == "scan":
                outputs = self._scan(equation, inner[0], inputs, here, times)
            elif primitive in _CALLS:
                shifted = elementwise or inner[0].debug_info.func_name in _SHIFTED_CONVOLUTIONS
                outputs = self.walk(inner[0], inputs, here, times, shifted)
            elif not (self.skips_loops and primitive == "while") and any(map(self._has_products, inner)):
                raise NotImplementedError(f"there are matrix products in a {primitive}: they cannot be counted")
            known.update(zip(equation.outvars, outputs, strict=True))
        return [origin(value) for value in program.outvars]

    def _scan(
        self, equation: JaxprEqn, body: Jaxpr, inputs: list[Origin], path: tuple[str, ...], times: int
    ) -> list[Origin]:
        # What is scanned over has an axis more outside than in the body. The parameters that count the rest have other
        # names in each version of jax.
        carried = sum(_same_rank(*pair) for pair in zip(equation.outvars, body.outvars, strict=True))
        constants = sum(_same_rank(*pair) for pair in zip(equation.invars, body.invars, strict=True)) - carried
        state = slice(constants, constants + carried)
        while True:
            # The outputs of a round are inputs of the next: repeat until nothing changes, as origins only grow.
            outputs = _Counter(skips_loops=self.skips_loops).walk(body, inputs, path, 1)
            joined = [max(pair) for pair in zip(inputs[state], outputs[:carried], strict=True)]
            if joined == inputs[state]:
                break
            inputs[state] = joined
        return self.walk(body, inputs, path, times * equation.params["length"])

    def _add(self, part: str, origins: Sequence[Origin], count: int) -> None:
        products = self.found[part]
        if min(origins) == Origin.CONSTANT:
            products.resampling += count
        elif min(origins) == Origin.IMAGE:
            products.attention += count
        else:
            products.weights += count

    def _has_products(self, program: Jaxpr) -> bool:
        counter = _Counter(skips_loops=self.skips_loops)
        counter.walk(program, [Origin.IMAGE] * len(program.invars), (), 1)
        return bool(counter.found)


def _programs(equation: JaxprEqn) -> Iterator[Jaxpr]:
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def _multiplications(equation: JaxprEqn) -> int:
    shapes = [value.aval.shape for value in equation.invars]  # pyright: ignore[reportAttributeAccessIssue]
    size = math.prod(equation.outvars[0].aval.shape)  # pyright: ignore[reportAttributeAccessIssue]
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return size * math.prod(shapes[0][axis] for axis in contracted)
    if equation.primitive.name == "conv_general_dilated":
        assert equation.params["batch_group_count"] == 1, "only gradients of convolutions group the batch"
        # A kernel has its own group's input channels alone, so groups need no factor.
        return size * math.prod(shapes[1]) // shapes[1][equation.params["dimension_numbers"].rhs_spec[0]]
    return size


def _parts_of(model: nn.Module) -> Parts:
    return getattr(getattr(model, "backbone", model), "parts", ())


def _part(path: Sequence[str], parts: Parts) -> str:
    """The part of a model by the names of its modules, outermost first; ``other`` where none is known."""
    for name in path:
        for pattern, part in parts:
            if found := re.fullmatch(pattern, name):
                return found.expand(part)
    return "other"


def training_memory(model: nn.Module, height: int, width: int, batch: int, *, variables: Any = None) -> dict[str, int]:
    """Bytes that a training step on ``batch`` images holds at some time, without the optimizer state.

    parameters, batch_stats, gradients; images, in the model's ``dtype``; activations, what automatic differentiation
    keeps for the backward pass. The compiler may keep less, as it recomputes some of it, and needs temporary memory
    besides. ``variables`` as above.

    Raises:
      UserError: the model takes no images or no batch of this size.
    """
    dtype = jnp.dtype(getattr(model, "dtype", jnp.float32))
    variables = abstract_variables(model, height, width) if variables is None else variables
    params = variables["params"]
    rest = {collection: tree for collection, tree in variables.items() if collection != "params"}
    images = jax.ShapeDtypeStruct((batch, height, width, 3), dtype)
    logits: Any = jax.eval_shape(model.apply, variables, images)
    targets = jax.ShapeDtypeStruct(logits.shape, jnp.float32)

    def loss(params: Any, rest: Any, images: jax.Array, targets: jax.Array, key: jax.Array) -> jax.Array:
        rngs = {"dropout": key}
        logits: Any = model.apply({"params": params, **rest}, images, True, rngs=rngs, mutable=list(rest))[0]
        return soft_cross_entropy(logits, targets).mean()

    activations = kept_for_backward(loss, params, rest, images, targets, jax.random.key(0))
    return {
        "parameters": tree_bytes(params),
        "batch_stats": tree_bytes(rest),
        "gradients": tree_bytes(params),
        "images": tree_bytes(images),
        "activations": activations,
    }


def kept_for_backward(function: Callable[..., jax.Array], params: Any, *inputs: Any) -> int:
    """Bytes that ``jax.vjp`` of ``function(params, *inputs)`` with respect to ``params`` keeps besides its arguments.

    Each array counts once, whatever shapes it is kept in. ``params`` and ``inputs`` may be shapes and types.
    """

    def backward(params: Any, *inputs: Any) -> Any:
        return jax.vjp(lambda params: function(params, *inputs), params)[1]

    program = jax.make_jaxpr(backward)(params, *inputs).jaxpr
    source = {
        equation.outvars[0]: equation.invars[0]
        for equation in program.eqns
        if equation.primitive.name in _VIEWS
        and tree_bytes(equation.outvars[0].aval) == tree_bytes(equation.invars[0].aval)
    }
    kept = set()
    for value in program.outvars:
        while not isinstance(value, Literal) and value in source:
            value = source[value]
        if not isinstance(value, Literal):
            kept.add(value)
    return sum(tree_bytes(value.aval) for value in kept - {*program.invars, *program.constvars})


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays of a tree, or of their shapes and types."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _same_rank(outer: Any, inner: Any) -> bool:
    return outer.aval.ndim == inner.aval.ndim
