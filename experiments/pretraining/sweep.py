"""Does it matter where the backbone starts? PVT paper (arXiv 2102.12122), section 5.4, figure 5."""

from experiments.common import TOY, TOY_PVT, one_of
from pvt_jax.sweeps import Curves, Dots, Sweep, Train

_TASKS = {"detection": ("digits_detection", "AP"), "segmentation": ("digits_segmentation", "miou")}
# A quarter of the steps of the configs of scenes, evaluated often.
_SHORT = {"steps": 1000, "evaluation.every_steps": 200, "log_every_steps": 50}


def get_sweep(scale: str = "detection") -> Sweep:
    """Scales: detection and segmentation, on scenes of digits; coco; toy."""
    one_of(scale, (*_TASKS, "coco", "toy"))
    from_scratch = {"init.checkpoint": ""}
    if scale == "coco":
        config, metric = "retinanet:pvt_small", "AP"
        arms = [Train("pretrained", config), Train("scratch", config, from_scratch)]
    else:
        config, metric = _TASKS["detection" if scale == "toy" else scale]
        keys, of_classifier = (TOY | TOY_PVT, TOY | TOY_PVT) if scale == "toy" else (_SHORT, {})
        arms = [
            Train("classifier", "digits", of_classifier),
            Train("pretrained", config, keys, start="classifier"),
            Train("scratch", config, {**keys, **from_scratch}),
        ]
    titles = {
        "detection": "RetinaNet on PVT, 1,000 steps on scenes of digits at 96²",
        "segmentation": "Semantic FPN on PVT, 1,000 steps on scenes of digits at 96²",
        "coco": "RetinaNet on PVT-Small, COCO, 12 epochs",
        "toy": "Two steps on scenes of digits, to see that it runs",
    }
    label = {"AP": "AP", "miou": "mIoU, %"}[metric]
    return Sweep(
        title=titles[scale],
        scale=scale,
        arms=arms,
        seeds=(0,) if scale == "toy" else (0, 1, 2),
        metric=metric,
        baseline="scratch",
        figures=[
            Curves(f"curves_{scale}.png", "Pre-trained or from scratch", metric, label),
            Dots(f"end_{scale}.png", "Pre-trained or from scratch, at the end", f"values.{metric}", label),
        ],
    )
