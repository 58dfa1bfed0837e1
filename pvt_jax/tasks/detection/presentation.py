"""What a person gets of a detection: boxes, labels, scores, and masks where the head has them."""

from typing import Any

import numpy as np

from pvt_jax.messages import plural
from pvt_jax.tasks.detection.instance_masks import paste_and_encode, paste_mask
from pvt_jax.tasks.detection.pictures import Instances, draw_detections, side_by_side
from pvt_jax.tasks.presentation import Picture, Prediction, Presentation


class DetectionPresentation(Presentation):
    """``objects``, the highest score first: box (x1, y1, x2, y2) in pixels of the image, label, name, score.

    Where the data set has ids, category_id; where the head has masks, mask in COCO's run lengths.
    """

    def fields(self, prediction: Prediction, size: tuple[int, int]) -> dict[str, Any]:
        found = _finite(prediction)
        masks = paste_and_encode(found["masks"], found["boxes"], *size) if "masks" in found else None
        objects = []
        for i in np.argsort(-found["scores"], kind="stable").tolist():
            label = int(found["labels"][i])
            one: dict[str, Any] = {"box": [round(x, 2) for x in found["boxes"][i].tolist()], "label": label}
            one |= {"name": self._classes.names[label], "score": round(float(found["scores"][i]), 6)}
            if self._classes.category_ids is not None:
                one["category_id"] = self._classes.category_ids[label]
            if masks is not None:
                one["mask"] = masks[i]
            objects.append(one)
        return {"objects": objects}

    def picture(self, image: Picture, prediction: Prediction) -> Picture:
        found, (height, width) = _finite(prediction), image.shape[:2]
        masks = None
        if "masks" in found:
            pairs = zip(found["masks"], found["boxes"], strict=True)
            masks = [paste_mask(*pair, height, width) for pair in pairs]
        shown = Instances(found["boxes"], found["labels"], found["scores"], masks)
        return side_by_side(image, None, shown, self._classes.names, 1024, self._min_score)

    def example(self, image: Picture, target: Prediction) -> tuple[str, Picture]:
        """Masks are as they are learned, on a grid over each box."""
        valid, names = target["valid"], self._classes.names
        boxes, labels = target["boxes"][valid], target["labels"][valid]
        masks = None
        if "masks" in target:
            # A grid holds how much of each cell is covered, in 0..255.
            grids = target["masks"][valid].astype(np.float32) / 255
            masks = [paste_mask(grid, box, *image.shape[:2]) for grid, box in zip(grids, boxes, strict=True)]
        picture = draw_detections(image, boxes, labels, names, masks=masks, side=max(image.shape[:2]))
        return f"{plural(len(labels), 'object')}", picture


def _finite(prediction: Prediction) -> Prediction:
    valid = prediction["valid"] & np.isfinite(prediction["boxes"]).all(-1) & np.isfinite(prediction["scores"])
    return {name: values[valid] for name, values in prediction.items() if name != "valid"}
