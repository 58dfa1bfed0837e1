"""The Pyramid Vision Transformer in JAX: models, training and checkpoints. This module is the public API."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pvt_jax.models import create_model, list_heads, list_models
    from pvt_jax.prediction.predictor import Predictor
    from pvt_jax.weights.load import load_variables

__all__ = ["Predictor", "create_model", "list_heads", "list_models", "load_variables"]
__version__ = "0.1.0"

_HOMES = {
    "Predictor": "pvt_jax.prediction.predictor",
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
    return [*__all__, "__version__"]
