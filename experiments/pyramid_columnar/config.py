"""The experiments on digits with a ViT in place of the PVT: ``config.py:TASK``, segmentation or detection."""

from ml_collections import ConfigDict

from configs.common import one_of
from configs.digits_detection import get_config as detection
from configs.digits_segmentation import get_config as segmentation

_TASKS = {"segmentation": segmentation, "detection": detection}


def get_config(arg: str = "") -> ConfigDict:
    """The experiment; the sweep says how large the ViT is."""
    config = _TASKS[one_of("config.py", arg, _TASKS)]()
    del config.model.dims
    config.model.name = "vit_tiny_patch16"
    return config
