"""What every exported file says of its model, for those who run it without this package."""

import importlib
from importlib.metadata import version
from typing import Any

from pvt_jax.prediction.exported.function import Function


def describe(function: Function) -> dict[str, Any]:
    """Plain values of JSON."""
    trained = function.trained
    task, options, classes = trained.task, trained.config.batch_transform, trained.classes
    return {
        "task": trained.config.task,
        "model": trained.config.model.name,
        "head": trained.config.head.name,
        "dtype": trained.config.model.dtype,
        "class_names": classes.names,
        "palette": classes.colours.tolist(),
        "category_ids": classes.category_ids,
        "input": {
            "layout": "batch, height, width, RGB",
            "dtype": function.input_dtype.name,
            "preprocess": function.preprocess,
            "mean": options.mean,
            "std": options.std,
            "preparation": task.preparation,
        },
        "outputs": {name: task.outputs[name] for name in function.outputs},
    }


def versions(*packages: str) -> dict[str, str]:
    """Of this package and others, by name."""
    return {"pvt_jax": importlib.import_module("pvt_jax").__version__, **{name: version(name) for name in packages}}
