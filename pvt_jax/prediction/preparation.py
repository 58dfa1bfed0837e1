"""How images become what a model sees in evaluation: what a source of weights says of it, as keys of a config."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pvt_jax.errors import UserError
from pvt_jax.tasks import TASKS
from pvt_jax.tasks.options import TaskConfig
from pvt_jax.training import history, workdir
from pvt_jax.weights.load import Source
from pvt_jax.weights.processor import FILE


def run_config(source: str | Path) -> dict[str, Any]:
    """The config of the run that ``source`` is of, as nested dicts; empty if it is of none."""
    folder = workdir.folder_of(source)
    whole = history.read_config(folder) if folder is not None else {}
    # A folder of another library has a config.json, too.
    return whole if isinstance(whole.get("model"), dict) and whole.get("task") in TASKS else {}


def evaluation_of(source: Source, run: Mapping[str, Any], task: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(values of keys by dotted name, notes on what cannot be followed).

    They are mean and deviation, those of the task's ``test_keys`` that a run or a file of ``convert`` tells, or those
    that do what the image processor of a folder of transformers does. ``run`` is its config; see ``run_config``.
    """
    options, found = TASKS[task].config, {}
    stated = dict(_leaves(run)) if run else source.evaluation
    found |= {name: stated[name] for name in options.test_keys if name in stated}
    if source.normalisation is not None:
        found["batch_transform.mean"], found["batch_transform.std"] = source.normalisation
    processor = source.processor
    if processor is None:
        return found, ()
    notes = list(processor.notes)
    if processor.resize is not None:
        try:
            values, note = options.of_processor(
                processor.resize, processor.size, processor.crop, processor.interpolation
            )
            found |= values
            notes.append(
                f"{FILE} is followed: images are {processor.in_words()}{f' ({note})' * bool(note)}; --image_size and "
                "--config.KEY=VALUE change that"
            )
        except UserError as error:
            notes.append(f"the sizes of {FILE} are not followed: {error}")
    return found, tuple(notes)


def processor_file(config: TaskConfig) -> dict[str, Any] | None:
    """The content of a ``preprocessor_config.json``, with which transformers prepares images as in evaluation.

    None: no processor of transformers does what the evaluation of this config does.
    """
    sizes, pixels = config.processor(), config.batch_transform
    if sizes is None:
        return None
    # As transformers has it, pixels are in 0..1 before mean and deviation.
    mean, std = ([round(value / 255, 7) for value in values] for values in (pixels.mean, pixels.std))
    steps = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    return {**sizes, **steps, "image_mean": mean, "image_std": std}


def nested(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sections of a config, from keys as "SECTION.KEY"."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        found.setdefault(section, {})[key] = value
    return found


def _leaves(sections: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for section, values in sections.items():
        if isinstance(values, dict):
            yield from ((f"{section}.{key}", value) for key, value in values.items())
