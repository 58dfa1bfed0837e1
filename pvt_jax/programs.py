"""The programs that a model runs, on images of random pixels: what its training and prediction cost without data."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax

from pvt_jax import config as config_lib
from pvt_jax.compilation import compiler_options
from pvt_jax.heads import HEADS
from pvt_jax.models import create_model
from pvt_jax.ops.target import for_devices
from pvt_jax.tasks import TASKS
from pvt_jax.tasks.options import TaskConfig
from pvt_jax.tasks.task import Batch, Task
from pvt_jax.training import build, sharding
from pvt_jax.training.optimizer import Schedule, adamw, constant
from pvt_jax.training.step import jitted_train_step, keys_of

Mode = Literal["infer", "train"]
_LEARNING_RATE = 1e-3
_CLASSES = 1000
_HITS = "/jax/compilation_cache/cache_hits"


@dataclass(frozen=True, eq=False)
class Subject:
    """A model in its task, with the task's defaults for all that is not chosen, and no data.

    Attributes:
      size: (height, width) of the random images.
    """

    config: TaskConfig
    task: Task
    size: tuple[int, int]


def subject(
    name: str,
    head: str = "",
    *,
    image_size: tuple[int, int] | None = None,
    num_classes: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Subject:
    """The model called ``name``, with a ``head`` for a dense task.

    Raises UserError: there is no such model, head or setting, or the task takes no images of this size.

    Args:
      image_size: (height, width); None: that of the task's defaults.
      num_classes: None: as many as ImageNet-1k has, or the data set of the head's published weights.
      settings: attributes of the model by name, and other keys of a config, as ``head.channels``,
        ``detection.max_objects`` or ``kernels``.
    """
    if head not in ("", *HEADS):
        create_model(name, head=head)  # knows the nearest name
    task = HEADS[head].model.task if head else "classification"
    options = TASKS[task].config
    usual = HEADS[head].num_classes if head else _CLASSES
    values: dict[str, Any] = {"task": task, "model.name": name, "head.name": head, "model.num_classes": usual}
    if num_classes is not None:
        values["model.num_classes"] = num_classes
    # The position tables of a dense model keep the size of its pre-training.
    if image_size is not None and not options.example_head:
        values["model.image_size"] = image_size
    chosen = config_lib.defaults()
    own = {key for key, value in chosen.items() if not hasattr(value, "items")}
    values |= {key if "." in key or key in own else f"model.{key}": value for key, value in (settings or {}).items()}
    for key, value in values.items():
        config_lib.put(chosen, key, value)
    return of_config(config_lib.read(chosen), image_size)


def of_config(config: TaskConfig, image_size: tuple[int, int] | None = None) -> Subject:
    """The model of a config, on random images of ``image_size``, by default of the size that the task trains on.

    Raises UserError: there is no such model, or the task takes no images of this size.
    """
    task = TASKS[config.task].make(config)
    size = task.input_size if image_size is None else image_size
    task.use_random_images(size)
    return Subject(config, task, size)


@dataclass(frozen=True, eq=False)
class Program:
    """A jitted program with all that it takes to compile and to run it.

    Attributes:
      function: of the arguments.
      abstract: shapes, types and places of the arguments.
      parameters: how many the model has.
      forward: (variables, *inputs) → what the program computes before any gradient, for counting.
      forward_inputs: shapes and types of the arguments of ``forward``.
      make: makes the arguments, with random variables and images.
      keeps: whether the first result takes the place of the first argument, which is gone after a call.
    """

    function: Any
    abstract: tuple[Any, ...]
    parameters: int
    forward: Callable[..., Any]
    forward_inputs: tuple[Any, ...]
    make: Callable[[], tuple[Any, ...]]
    keeps: bool

    def runner(self, compiled: Any, *, waits: bool = True) -> Callable[[], Any]:
        """A function that runs ``compiled`` once, waits for its results if it ``waits``, and returns them."""
        arguments = list(self.make())
        jax.block_until_ready(arguments)

        def run() -> Any:
            results = compiled(*arguments)
            if waits:
                jax.block_until_ready(results)
            if self.keeps:
                arguments[0] = results[0]
            return results

        return run


def program(subject: Subject, mode: Mode, batch_size: int) -> Program:
    """The program of one step on ``batch_size`` images, shared by all devices.

    infer: the model as prediction runs it, from uint8 images to the logits of a classifier, the logits of a
    segmentation at stride 4, or the final detections; the post-processing of a task beyond is left out. train: the step
    of ``pvt_jax.main`` with AdamW at a constant rate, from uint8 images and their labels to the next state.

    Raises UserError: the devices cannot share this batch equally, or the model takes no such images.
    """
    mesh = sharding.make_mesh(subject.config.mesh.fsdp)
    sharding.check_batch(batch_size, mesh, subject.config.accumulation_steps)
    if mode == "infer":
        return _inference(subject, batch_size, mesh)
    return training(subject, batch_size, mesh, constant(_LEARNING_RATE))


def _inference(subject: Subject, batch_size: int, mesh: Any) -> Program:
    task = subject.task
    copies, split = sharding.replicated(mesh), sharding.batch_sharding(mesh)

    def infer(variables: Any, images: jax.Array) -> Any:
        return task.model.apply(variables, task.normalise(images))

    variables = sharding.placed(jax.eval_shape(task.init, jax.random.key(0)), copies)
    make_images, batch = _batch_maker(task, batch_size, mesh)
    abstract = (variables, batch["image"])
    jax.eval_shape(infer, *abstract)  # refuses images before anything is compiled

    def make() -> tuple[Any, ...]:
        init = jax.jit(task.init, out_shardings=copies, compiler_options=compiler_options("init"))
        return init(jax.random.key(0)), make_images()["image"]

    of_devices = for_devices(infer, mesh)
    function = jax.jit(of_devices, out_shardings=split, compiler_options=compiler_options("infer"))
    return Program(function, abstract, _parameters(variables), infer, abstract, make, keeps=False)


def training(subject: Subject, batch_size: int, mesh: Any, schedule: Schedule) -> Program:
    """The program of a training step, as ``program`` has it, on a mesh.

    ``schedule`` is one of ``optimizer``'s: the learning rate by step, and a pytree.
    """
    config, task = subject.config, subject.task
    optimizer, key = adamw(config.optimizer), jax.random.key(config.seed)
    variables = jax.eval_shape(task.init, key)
    state = build.abstract_state(config, task, optimizer, mesh, variables)
    make_batch, batch = _batch_maker(task, batch_size, mesh)
    prepare_key, loss_key = keys_of(key, 0)

    def loss(variables: Any, prepared: Batch) -> jax.Array:
        return task.loss(variables, prepared, loss_key)[0]

    prepared = jax.eval_shape(task.prepare, batch, prepare_key)
    create = build.state_maker(config, task, optimizer, state)
    schedule_and_key = schedule, key
    return Program(
        jitted_train_step(config, task, optimizer, state, mesh),
        (state, batch, *sharding.placed(jax.eval_shape(lambda: schedule_and_key), sharding.replicated(mesh))),
        _parameters(variables),
        loss,
        (variables, prepared),
        lambda: (create(key), make_batch(), *sharding.copied(schedule_and_key, mesh)),
        keeps=True,
    )


def _batch_maker(task: Task, batch_size: int, mesh: Any) -> tuple[Callable[[], Batch], Batch]:
    """A function that makes a random batch on the devices, and what it is: shapes, types and places."""
    split = sharding.batch_sharding(mesh)
    batch = jax.eval_shape(lambda key: task.random_batch(key, batch_size), jax.random.key(1))
    make = jax.jit(task.random_batch, static_argnums=1, out_shardings=split, compiler_options=compiler_options("init"))
    return lambda: make(jax.random.key(1), batch_size), sharding.placed(batch, split)


def _parameters(variables: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@contextlib.contextmanager
def cache_hits() -> Iterator[list[str]]:
    """A list that gets an entry for each program that is taken from jax's persistent cache meanwhile."""
    hits: list[str] = []

    def note(event: str, **rest: Any) -> None:
        hits.extend([event] * (event == _HITS))

    jax.monitoring.register_event_listener(note)
    try:
        yield hits
    finally:
        # Older versions of jax only add listeners.
        getattr(jax.monitoring, "unregister_event_listener", lambda listener: None)(note)


def allocated(compiled: Any) -> dict[str, int] | None:
    """Bytes that XLA allocates on a device for a compiled program, by what for; None where it does not say.

    ``aliased`` results take the place of arguments, and ``total`` counts them once.
    """
    sizes = compiled.memory_analysis()
    if sizes is None:
        return None
    kinds = {"arguments": "argument", "outputs": "output", "aliased": "alias", "temporary": "temp"}
    found = {name: getattr(sizes, f"{kind}_size_in_bytes") for name, kind in kinds.items()}
    return {**found, "total": found["arguments"] + found["outputs"] - found["aliased"] + found["temporary"]}
