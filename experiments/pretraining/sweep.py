"""Does it matter where the backbone starts? PVT paper (arXiv 2102.12122), ablation study."""

from experiments.common import ON_TOYS, SCENES, SCENES_LEARNING_RATES, TOY, TOY_PVT, one_of, seeds
from pvt_jax.sweeps import Curves, Dots, Sweep, Train

_TASKS = {"detection": ("digits_detection", "AP"), "segmentation": ("digits_segmentation", "miou")}


def get_sweep(scale: str = "detection") -> Sweep:
    """Scales: detection and segmentation, on scenes of digits; coco; toy."""
    titles = {
        "detection": "RetinaNet on PVT, 1,000 steps on scenes of digits at 96²",
        "segmentation": "Semantic FPN on PVT, 1,000 steps on scenes of digits at 96²",
        "coco": "RetinaNet on PVT-Small, COCO, 12 epochs",
        "toy": ON_TOYS,
    }
    one_of(scale, titles)
    from_scratch = {"init.checkpoint": ""}
    if scale == "coco":
        config, metric = "retinanet:pvt_small", "AP"
        arms = [Train("pretrained", config), Train("scratch", config, from_scratch)]
    else:
        config, metric = _TASKS["detection" if scale == "toy" else scale]
        keys, of_classifier = (TOY | TOY_PVT, TOY | TOY_PVT) if scale == "toy" else (SCENES, {})
        arms = [
            Train("classifier", "digits", of_classifier, tuned=False),
            Train("pretrained", config, keys, start="classifier"),
            Train("scratch", config, {**keys, **from_scratch}),
        ]
    label = {"AP": "AP", "miou": "mIoU, %"}[metric]
    return Sweep(
        title=titles[scale],
        scale=scale,
        arms=arms,
        seeds=seeds(scale),
        metric=metric,
        baseline="scratch",
        tuning=SCENES_LEARNING_RATES if scale in _TASKS else None,
        figures=[
            Curves(f"curves_{scale}.png", "Pre-trained or from scratch", metric, label),
            Dots(f"end_{scale}.png", "Pre-trained or from scratch, at the end", f"values.{metric}", label),
        ],
    )
