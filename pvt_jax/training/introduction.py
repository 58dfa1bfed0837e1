"""What a run is about to do, in a few lines: model, devices, data, recipe."""

from typing import Any

import jax
import numpy as np

from pvt_jax import machine
from pvt_jax.backbones.cost import multiply_accumulates
from pvt_jax.messages import plural
from pvt_jax.training.build import Run
from pvt_jax.training.optimizer import split

_WIDTH = 10


def introduction(run: Run) -> list[str]:
    """Lines with a label each, in the order in which a person asks."""
    lines = {
        "model": _model(run),
        "devices": _devices(run),
        "data": run.data,
        "length": _length(run),
        "recipe": _recipe(run),
        "saving": _saving(run),
    }
    return [f"{label:<{_WIDTH}}{text}" for label, text in lines.items()]


def summary(run: Run) -> dict[str, Any]:
    """Its size, and what it runs on: what ``summary.json`` in its workdir holds.

    ``backbone_macs`` are multiply-accumulates of the backbone for one image of ``image_size`` (height, width).
    """
    parameters, device = run.abstract.params, jax.devices()[0]
    backbone = getattr(run.task.model, "backbone", run.task.model)
    cost = multiply_accumulates(backbone, *run.task.image_size)
    on_cpu = device.platform == "cpu"
    return {
        "parameters": _size(parameters),
        "trained_parameters": _size(split(parameters, run.config.optimizer.frozen)[0]),
        "backbone_macs": sum(part.weights + part.attention for part in cost.values()),
        "image_size": [*run.task.image_size],
        "machine": machine.processor() if on_cpu else f"{run.mesh.size} × {device.device_kind}",
        "versions": machine.versions(),
    }


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _model(run: Run) -> str:
    config, found = run.config, summary(run)
    height, width = run.task.image_size
    is_dense = hasattr(run.task.model, "backbone")
    of_backbone = " of the backbone" if is_dense else ""
    frozen = f", of which {found['trained_parameters']:,} are trained" if config.optimizer.frozen else ""
    head = f" with {config.head.name}" if config.head.name else ""
    dtype = np.dtype(config.model.dtype).name
    return (
        f"{config.model.name}{head}: {found['parameters']:,} parameters{frozen}; {found['backbone_macs'] / 1e9:.3g} "
        f"GMACs{of_backbone} at {height}×{width}; {dtype}"
    )


def _devices(run: Run) -> str:
    hosts, mesh = jax.process_count(), " × ".join(f"{axis} {size}" for axis, size in run.mesh.shape.items())
    return f"{run.mesh.size} × {jax.devices()[0].device_kind}{f' on {hosts} hosts' if hosts > 1 else ''}; mesh {mesh}"


def _length(run: Run) -> str:
    config, total = run.config, run.lengths.total
    records = run.description.train.records
    batch = f"batches of {config.batch_size:,}"
    if config.accumulation_steps > 1:
        batch += f" in {config.accumulation_steps} parts"
    epochs = f" ({total * config.batch_size / records:.3g} epochs of {records:,} images)" if records else ""
    return f"{plural(total, 'step')} with {batch}{epochs}"


def _recipe(run: Run) -> str:
    options, lengths = run.config.optimizer, run.lengths
    peak = f"learning rate {run.peak_learning_rate:.3g}"
    if options.base_batch_size != run.config.batch_size:
        peak += f" ({options.learning_rate:g} at a batch of {options.base_batch_size:,}, scaled)"
    drops = ", ".join(f"{step:,}" for step in lengths.drops)
    curve = f"{options.schedule} to {options.final_learning_rate:g}"
    parts = [peak, f"times {options.drop_factor:g} after steps {drops}" if options.schedule == "step" else curve]
    parts.append(f"{plural(lengths.warmup, 'step')} of warm-up" if lengths.warmup else "no warm-up")
    parts.append(f"weight decay {options.weight_decay:g}")
    parts.append(f"gradients clipped at norm {options.clip_norm:g}" if options.clip_norm else "no clipping")
    if options.layer_decay < 1:
        parts.append(f"layer decay {options.layer_decay:g}")
    parts.append(f"moving average of {run.config.ema_decay:g}" if run.config.ema_decay else "no moving average")
    return ", ".join(parts)


def _saving(run: Run) -> str:
    options, every = run.config.checkpoint, run.lengths.evaluate_every
    patience = run.config.early_stopping.patience
    stop = f", early stopping after {plural(patience, 'evaluation')} without a better one" if patience else ""
    return f"evaluated every {plural(every, 'step')}{stop}; a checkpoint every {plural(options.every_steps, 'step')}"
