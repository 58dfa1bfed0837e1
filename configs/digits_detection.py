"""PVT and a detector on scenes of real handwritten digits over photographs: no download, minutes on a CPU.

python -m pvt_jax.main --config configs/digits_detection.py --workdir runs/digits_detection
python -m pvt_jax.main --config configs/digits_detection.py:mask_rcnn --workdir runs/digits_masks

The argument is retinanet, mask_rcnn, faster_rcnn or detr. The backbone starts from the digits classifier that
`make train` leaves in runs/digits; elsewhere: --config.init.checkpoint=FOLDER. The scenes are made at run time of what
scikit-learn ships; their boxes and masks are exact.

Metric: on the 256 held-out scenes RetinaNet reaches AP 69.9 and AP50 92.6; Mask R-CNN AP 73.7, AP50 97.7, mask_AP 78.6
and mask_AP50 97.4. DETR's loss falls, but it wants far more steps than these to detect anything. Time: 3 and 8 minutes
on two CPU cores.
"""

from ml_collections import ConfigDict

from configs.common import one_of

# Heads that are as narrow as the backbone, and that look at few proposals or queries: a scene has five objects at most.
_PYRAMID = {"channels": 64, "neck_channels": 64}
_PROPOSALS = {
    "hidden_dim": 128,
    "anchor_scales": (6.0,),
    "rpn_samples": 64,
    "train_pre_nms": 128,
    "train_proposals": 64,
    "pre_nms": 128,
    "proposals": 64,
    "samples": 32,
}
_HEADS = {
    "retinanet": {**_PYRAMID, "num_convs": 2},
    "mask_rcnn": {**_PYRAMID, **_PROPOSALS},
    "faster_rcnn": {**_PYRAMID, **_PROPOSALS},
    "detr": {
        "dim": 128,
        "num_heads": 4,
        "hidden_dim": 512,
        "encoder_depth": 2,
        "decoder_depth": 3,
        "num_queries": 20,
        "dropout_rate": 0.0,
    },
}


def get_config(arg: str = "") -> ConfigDict:
    """The experiment."""
    head = one_of("configs/digits_detection.py", arg or "retinanet", _HEADS)
    # Scenes of 128² are seen at 96², for speed. DETR reads the coarsest map alone.
    side = 128 if head == "detr" else 96
    return ConfigDict(
        {
            "task": "detection",
            "batch_size": 8,
            "steps": 2000,
            "log_every_steps": 100,
            "init": {"checkpoint": "runs/digits"},
            "model": {
                "name": "pvt_tiny",
                # The backbone of configs/digits.py.
                "dims": (32, 64, 160, 256),
                "num_classes": 10,
                "image_size": 32,
                "drop_path_rate": 0.0,
            },
            "head": {"name": head, **_HEADS[head]},
            # What is made here needs no check.
            "data": {"source": "digit_scenes", "check": "sample"},
            # A mirrored digit is none.
            "transform": {"flip_probability": 0.0},
            "batch_transform": {"mean": (96.0, 96.0, 91.0), "std": (63.0, 58.0, 62.0)},
            "detection": {"short_sides": (side,), "long_side": side, "mask_side": 28},
            "optimizer": {
                "learning_rate": 2e-4 if head == "detr" else 1e-3,
                "base_batch_size": 8,
                "clip_norm": 1.0,
                # Short runs want moments that forget sooner.
                "b2": 0.98,
                "weight_decay": 0.05,
                "schedule": "poly",
                "power": 0.9,
                "warmup_steps": 100,
                "final_learning_rate": 0.0,
            },
            "evaluation": {"every_steps": 500},
            "checkpoint": {"every_steps": 250},
        }
    )
