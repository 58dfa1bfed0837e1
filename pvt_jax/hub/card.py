"""The model card of a folder for the Hugging Face hub, README.md: Markdown with a head of YAML."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pvt_jax.data.description import DataDescription
from pvt_jax.hub.record import Record
from pvt_jax.messages import escaped_name, plural
from pvt_jax.tasks import TASKS

_USE = """\
```python
import pvt_jax

predictor = pvt_jax.Predictor("hf://{place}")
prediction = predictor("picture.jpg")[0]
```

or, for training, `--config.init.checkpoint=hf://{place}`. Besides pvt_jax this needs
`pip install huggingface_hub`. The tensors in `model.safetensors` have the names of the reference code, for PyTorch.
"""


def model_card(
    settings: Mapping[str, Any],
    task: str,
    data: DataDescription | None,
    record: Record,
    *,
    recipe: Mapping[str, Any],
    licence: str,
    origin: str = "",
) -> str:
    """README.md of a model.

    Args:
      settings: arguments of ``create_model``.
      task: its name.
      data: the classes; None if they have no names.
      record: of the run.
      recipe: keys of the run's config that matter, with their values.
      licence: as the hub calls it, or a text.
      origin: of published weights who trained them; "" for a run.
    """
    name, head = settings["name"], settings.get("head", "")
    title = f"{name} with {head}" if head else name
    parts = [f"# {title}", _summary(title, settings, task, data, record, origin)]
    parts += ["## Use", _USE.format(place="USER/REPO").strip()]
    parts += ["## Measured", _measured(data, record, task)]
    if record.config:
        parts += ["## Recipe", _table(("key", "value"), sorted(recipe.items()))]
        parts += ["All keys are in `config.json`. Paths are left out."]
    if data is not None:
        names = "\n".join(f"{label}. {_cell(name)}" for label, name in enumerate(data.class_names))
        parts += ["## Classes", names]
    parts += ["## Licence", _licence(licence, record)]
    return f"---\n{_head(title, task, name, head, record, data, licence)}---\n\n" + "\n\n".join(parts) + "\n"


def hub_name(licence: str) -> dict[str, str]:
    """The entries of the head for a licence: the hub's own name of it, or ``other`` with a text."""
    own = {"apache-2.0", "bsd-3-clause", "mit", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc0-1.0", "unknown"}
    if licence.lower() in own:
        return {"license": licence.lower()}
    return {"license": "other", "license_name": licence}


def _head(
    title: str, task: str, model: str, head: str, record: Record, data: DataDescription | None, licence: str
) -> str:
    kind = TASKS[task].config.hub_task
    entries: dict[str, Any] = {**hub_name(licence), "library_name": "pvt_jax", "pipeline_tag": kind}
    entries["tags"] = ["jax", "flax", model, *([head] if head else [])]
    metrics = [{"type": name, "value": round(value, 4)} for name, value in _shown(record.metrics).items()]
    if metrics:
        measured = {"task": {"type": kind}, "dataset": _dataset(record, data), "metrics": metrics}
        entries["model-index"] = [{"name": title, "results": [measured]}]
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)


def _dataset(record: Record, data: DataDescription | None) -> dict[str, str]:
    of = record.config.get("data", {})
    name = str(of.get("name")) if of.get("source") == "tfds" else f"own data in the format {of.get('source')}"
    return {"name": f"{name}, {plural(data.eval.records, 'image')}" if data else name, "type": str(of.get("source"))}


def _summary(
    title: str, settings: Mapping[str, Any], task: str, data: DataDescription | None, record: Record, origin: str
) -> str:
    height, width = settings["image_size"]
    text = f"{title}: {task} with {plural(settings['num_classes'], 'class', 'es')}, images of {height}×{width}."
    if origin:
        text += f" The weights are those of {origin}, converted."
    if record.config and data is not None and data.train.records:
        start = f", from the weights `{record.initial}`" if record.initial else ""
        text += f" Trained with pvt_jax on {plural(data.train.records, 'image')}{start}"
        text += f", to step {record.step:,}." if record.step is not None else "."
    return text


def _measured(data: DataDescription | None, record: Record, task: str) -> str:
    shown = _shown(record.metrics)
    if not shown:
        return "No evaluation of this checkpoint is known."
    on = f"On {plural(data.eval.records, 'image')} that" if data and data.eval.records else "On images that"
    text = (
        f"{on} the run evaluated on, after step {record.step:,}; `{TASKS[task].config.best_metric}` ranks checkpoints."
    )
    return f"{text}\n\n" + _table(("metric", "value"), [(name, f"{value:.4g}") for name, value in shown.items()])


def _shown(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without those of each class, which have a slash in their names."""
    return {name: value for name, value in metrics.items() if "/" not in name}


def _licence(licence: str, record: Record) -> str:
    text = "It is not known." if licence == "unknown" else f"{licence}."
    return f"{text} It started from the weights `{record.initial}`." if record.initial else text


def _table(head: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: Any) -> str:
    return escaped_name(str(value)).replace("|", "\\|")
