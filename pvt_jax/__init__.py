"""The Pyramid Vision Transformer in JAX: models, training and checkpoints. This module is the public API."""

from typing import TYPE_CHECKING, Any

from pvt_jax.version import __version__

if TYPE_CHECKING:
    from pvt_jax.environment import check_environment
    from pvt_jax.models import create_model, list_heads, list_models
    from pvt_jax.prediction.predictor import Predictor
    from pvt_jax.weights.load import load_variables

__all__ = [
    "Predictor",
    "check_environment",
    "create_model",
    "list_heads",
    "list_models",
    "load_variables",
    "__version__",
]

_HOMES = {
    "Predictor": "pvt_jax.prediction.predictor",
    "check_environment": "pvt_jax.environment",
    "create_model": "pvt_jax.models",
    "list_heads": "pvt_jax.models",
    "list_models": "pvt_jax.models",
    "load_variables": "pvt_jax.weights.load",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: the commands answer a mistyped flag before the seconds that importing jax takes.
    if name not in _HOMES:
        raise AttributeError(f"module 'pvt_jax' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
