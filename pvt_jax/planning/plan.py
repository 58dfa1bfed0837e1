"""The plan of a training run: its real step, compiled for devices that may not be here."""

import copy
import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax

from pvt_jax import config as config_lib
from pvt_jax import devices as sheets
from pvt_jax import machine, programs, trace
from pvt_jax.config import Config
from pvt_jax.messages import plural, waiting
from pvt_jax.ops.target import compiled_for
from pvt_jax.planning import roofline
from pvt_jax.planning.flops import count_flops
from pvt_jax.planning.topology import Topology
from pvt_jax.planning.traffic import Traffic, traffic
from pvt_jax.tasks.options import TaskConfig
from pvt_jax.training import plausible, sharding
from pvt_jax.training.lengths import Lengths, schedule_of

Say = Callable[[str], None]

# Images to train on in data sets that are known without being read, by data.name of TFDS and by other data.source.
_IMAGES = {"imagenet2012": 1_281_167, "digits": 1_438}
# Over so many devices at most a variant shards parameters: as many as GPUs of a host, with fast links.
_SHARDS = 8
# XLA's words when a program is too large for the memory of a TPU.
_NEEDED = (r"Used ([\d.]+)([MGT]) of", r"\(([\d.]+)([MGT])\) exceeds")
_UNITS = {"M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Target:
    """What is compiled for.

    Attributes:
      per_host: devices with links to each other.
      hosts: machines that the devices are in, each of which reads its own images.
      limit: bytes of the memory of a device that programs may take; None where that is not known.
      memory: bytes of all of it.
    """

    devices: Sequence[Any]
    per_host: int
    hosts: int
    limit: float | None
    memory: float | None

    @property
    def kind(self) -> str:
        """jax's name of the devices."""
        return self.devices[0].device_kind

    @classmethod
    def of(cls, topology: Topology | None) -> "Target":
        """The devices of ``topology``, or those that are here. Raises UserError: there is no such topology."""
        devices = jax.devices() if topology is None else topology.devices()
        per_host = jax.local_device_count() if topology is None else topology.per_host
        sheet = sheets.find(devices[0].device_kind)
        limit, memory = (sheet.limit, sheet.memory) if sheet else (None, None)
        if topology is None and devices[0].platform == "cpu":
            # Devices of a CPU are parts of one machine.
            limit = memory = machine.memory() / len(devices)
        elif topology is None:
            limit = (devices[0].memory_stats() or {}).get("bytes_limit", limit)
        hosts = len({device.process_index for device in devices}) if topology is None else topology.hosts(devices)
        return cls(devices, per_host, hosts, limit, memory)


def plan(
    config: Config, topology: Topology | None, *, compare: bool, train_images: int | None, say: Say
) -> dict[str, Any]:
    """What ``--dry_run --json`` prints.

    Raises UserError: the config cannot run, or not on these devices.

    Args:
      config: see ``pvt_jax.config``.
      topology: None for the devices that are here.
      compare: whether what other settings would change is compiled as well.
      train_images: images to train on; None: the number of a data set that is known.
      say: takes lines on the progress.
    """
    options = config_lib.read(config)
    for note in plausible.check_config(options):
        say(f"note: {note}")
    target = Target.of(topology)
    is_named = options.data.source == "tfds"
    images = train_images or _IMAGES.get(options.data.name if is_named else options.data.source)
    step = _Step(options, target, images, say)
    counted, found = step.counted(), step.compiled()
    variants = []
    for change in _changes(options, len(target.devices)):
        other = copy.deepcopy(config)
        for key, value in change.items():
            config_lib.put(other, key, value)
        what = ", ".join(f"{key}={value}" for key, value in change.items())
        varied = _Step(config_lib.read(other), target, images, say, what, found["memory"].get("process"))
        variants.append({"change": change, **varied.counted(), **(varied.compiled() if compare else {})})
    mesh = step.mesh
    return {
        **{"model": options.model.name, "head": options.head.name, "task": options.task},
        **{"image_size": list(step.subject.size), "batch_size": options.batch_size},
        **{"accumulation_steps": options.accumulation_steps, "dtype": str(options.model.dtype)},
        **{"remat": options.model.remat, "scan": options.model.scan, "mesh": dict(mesh.shape)},
        "topology": str(topology) if topology else "",
        # Not "device", as reports of measurements call what they were measured on.
        "target": target.kind if target.kind != "cpu" else machine.processor(),
        "device_count": mesh.size,
        "hosts": target.hosts,
        "parameters": step.program.parameters,
        "memory_of_device": target.memory,
        "memory_limit": target.limit,
        "train_images": images,
        "steps": step.steps,
        **counted,
        **found,
        "variants": variants,
        "versions": {name: version for name, version in machine.versions().items() if name.startswith("jax")},
    }


class _Step:
    """A training step on a mesh, to be counted and compiled.

    ``what`` tells it from others in lines on the progress; ``process`` is what the process held before others were
    compiled in it, None if none were.
    """

    def __init__(
        self,
        options: TaskConfig,
        target: Target,
        images: int | None,
        say: Say,
        what: str = "",
        process: int | None = None,
    ):
        self.options, self.target, self.say, self.process = options, target, say, process
        self.what = f" with {what}" if what else ""
        self.mesh = sharding.make_mesh(options.mesh.fsdp, target.devices)
        sharding.check_batch(options.batch_size, self.mesh, options.accumulation_steps)
        lengths = Lengths.of(options, images or options.batch_size)
        # Without the number of images only a length in steps is known.
        self.steps = lengths.total if images or options.steps is not None else None
        with waiting(f"building the model{self.what}", say):
            self.subject = programs.of_config(options)
            schedule = schedule_of(options, lengths)[1]
            self.program = programs.training(self.subject, options.batch_size, self.mesh, schedule)

    def counted(self) -> dict[str, Any]:
        """What follows from shapes and from the traced program."""
        state, batch, *_ = self.program.abstract
        kept = {
            "parameters": state.params,
            "moving_average": state.ema_params,
            "batch_stats": state.batch_stats,
            "optimizer_state": state.opt_state,
            "batch": batch,
        }
        with waiting(f"tracing the step{self.what}", self.say):
            with compiled_for(self.mesh, kernels=self.options.kernels):
                parts = self.options.accumulation_steps
                activations = _activations(self.program, self.options.batch_size, parts, self.mesh.size)
            flops = self.flops
        sizes = {name: _on_device(tree) for name, tree in kept.items()}
        return {"counted": {**sizes, "activations": activations}, "flops": flops}

    @cached_property
    def flops(self) -> int:
        """Of a step, on all devices together."""
        return count_flops(self.program.function, *self.program.abstract)

    def compiled(self) -> dict[str, Any]:
        """What follows from the compiled program; without memory's parts and what it moves if it is too large."""
        where = plural(self.mesh.size, "device") + f" ({self.target.kind})"
        start = time.perf_counter()
        with waiting(f"tracing and lowering the step{self.what}", self.say):
            lowered = self.program.function.lower(*self.program.abstract)
        lowering, start = time.perf_counter() - start, time.perf_counter()
        hint = "" if self.options.model.scan else "; --config.model.scan=True compiles one block for a whole stage"
        waits = waiting(f"compiling the step{self.what} for {where}, which may take minutes{hint}", self.say)
        hits: list[str] = []
        try:
            with waits, programs.cache_hits() as hits:
                compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if (needed := _needed(error)) is None:
                raise
            compiled, memory = None, {"total": needed, "fits": False}
        else:
            memory = self.memory(compiled)
        seconds = {"lower_seconds": lowering, "compile_seconds": time.perf_counter() - start, "from_cache": bool(hits)}
        if compiled is None:
            return {"memory": memory, **seconds, "traffic": None, "collectives": None, "modelled": None}
        moved = traffic(compiled.as_text(), self.mesh.size)
        return {"memory": memory, **seconds, **_moved(moved, compiled), "modelled": self.modelled(moved)}

    def memory(self, compiled: Any) -> dict[str, Any]:
        """Bytes that XLA allocates on a device, and whether it has them.

        A TPU also holds the program, and a CPU's memory the process, as large as this one.
        """
        sizes = programs.allocated(compiled) or {"total": 0}
        code = getattr(compiled.memory_analysis(), "generated_code_size_in_bytes", 0)
        process = self.process
        if process is None:
            process = machine.resident_bytes() // self.mesh.size if self.target.kind == "cpu" else 0
        total = sizes["total"] + code + process
        fits = None if self.target.limit is None else total <= self.target.limit
        return {**sizes, "program": code, "process": process, "total": total, "fits": fits}

    def modelled(self, moved: Traffic) -> dict[str, Any] | None:
        """Times of a step by the data sheet of the device, and what follows; None if that is not known."""
        sheet = sheets.find(self.target.kind)
        flops = self.flops / self.mesh.size
        dtype = str(self.options.model.dtype)
        parts = sheet and roofline.seconds(sheet, dtype, flops, moved.bytes, moved.collectives, self.target.per_host)
        if not parts:
            return None
        bounds = {"overlapped": max(parts.values()), "serial": sum(parts.values())}
        return {
            "seconds": parts,
            "limit": max(parts, key=lambda name: parts[name]),
            "step_seconds": bounds,
            "images_per_second": {name: self.options.batch_size / bound for name, bound in bounds.items()},
            "device_images_per_second": {
                name: self.options.batch_size / bound / self.mesh.size for name, bound in bounds.items()
            },
            "hours": {name: self.steps * bound / 3600 for name, bound in bounds.items()} if self.steps else None,
        }


def _activations(program: programs.Program, batch: int, parts: int, devices: int) -> int:
    """Bytes that automatic differentiation keeps for the backward pass of a part of the batch, on one device.

    What does not grow with the images, as weights in bfloat16, every device has whole.
    """
    variables, *inputs = program.forward_inputs
    rest = {name: tree for name, tree in variables.items() if name != "params"}

    def loss(params: Any, rest: Any, *inputs: Any) -> jax.Array:
        return program.forward({"params": params, **rest}, *inputs)

    def kept(images: int) -> int:
        def resized(one: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            shape = (images, *one.shape[1:]) if one.shape[:1] == (batch,) else one.shape
            return jax.ShapeDtypeStruct(shape, one.dtype)

        return trace.kept_for_backward(loss, variables["params"], rest, *jax.tree.map(resized, inputs))

    images = batch // parts
    found = kept(images)
    if devices == 1:
        return found
    fixed = 2 * found - kept(2 * images)
    return (found - fixed) // devices + fixed


def _on_device(tree: Any) -> int:
    """Bytes of a tree's shapes on the device that holds most of them."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _needed(error: Exception) -> int | None:
    """Bytes that a program needs which is too large to be compiled; None if something else is wrong."""
    for pattern in _NEEDED:
        if found := re.search(pattern, str(error)):
            return int(float(found[1]) * _UNITS[found[2]])
    return None


def _moved(moved: Traffic, compiled: Any) -> dict[str, Any]:
    groups: dict[tuple[str, int], list[Any]] = defaultdict(list)
    for one in moved.collectives:
        groups[one.kind, one.groups.size].append(one)
    collectives = [
        {
            **{"kind": kind, "devices": size, "count": sum(one.times for one in found)},
            "bytes": sum(one.bytes * one.times for one in found),
        }
        for (kind, size), found in groups.items()
    ]
    # XLA counts a loop once, and on a TPU what stays on the chip as well; for a GPU it counts nothing.
    own = compiled.cost_analysis() if hasattr(compiled, "cost_analysis") else None
    return {
        "traffic": {
            **{"bytes": moved.bytes, "kernels": moved.kernels, "unknown_loops": moved.unknown_loops},
            "unknown_bytes": moved.unknown_bytes,
            "xla_bytes": (own or {}).get("bytes accessed"),
            "collective_bytes": sum(row["bytes"] for row in collectives),
        },
        "collectives": sorted(collectives, key=lambda row: -row["bytes"]),
    }


def _changes(options: TaskConfig, devices: int) -> Iterator[dict[str, Any]]:
    """Other values of what trades memory for time, one key each."""
    steps = options.accumulation_steps
    for more in range(2 * steps, options.batch_size // devices + 1):
        if options.batch_size % (devices * more) == 0:
            yield {"accumulation_steps": more}
            break
    yield {"model.remat": not options.model.remat}
    if options.mesh.fsdp > 1:
        yield {"mesh.fsdp": 1}
    elif math.gcd(devices, _SHARDS) > 1:
        yield {"mesh.fsdp": math.gcd(devices, _SHARDS)}
