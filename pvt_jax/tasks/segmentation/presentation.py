"""What a person gets of a segmentation: a label map, and the share of each class."""

import io
from typing import Any

import numpy as np
from PIL import Image

from pvt_jax.tasks.presentation import Picture, Prediction, Presentation
from pvt_jax.tasks.segmentation.pictures import beside_overlay, overlay


class SegmentationPresentation(Presentation):
    """``label_map``: a PNG of class indices with the colours of the classes as its palette.

    ``classes``: label, name and share of the pixels of each class that is there, the largest first.
    """

    def fields(self, prediction: Prediction, size: tuple[int, int]) -> dict[str, Any]:
        names = self._classes.names
        counts = np.bincount(_cut(prediction, size).reshape(-1), minlength=len(names))[: len(names)]
        present = [k for k in np.argsort(-counts, kind="stable").tolist() if counts[k]]
        total = size[0] * size[1]
        return {"classes": [{"label": k, "name": names[k], "share": round(int(counts[k]) / total, 6)} for k in present]}

    def files(self, prediction: Prediction, size: tuple[int, int]) -> dict[str, bytes]:
        picture = Image.fromarray(np.ascontiguousarray(_cut(prediction, size)), mode="P")
        picture.putpalette(self._classes.colours.tobytes())
        file = io.BytesIO()
        picture.save(file, "PNG")
        return {"label_map": file.getvalue()}

    def picture(self, image: Picture, prediction: Prediction) -> Picture:
        labels = _cut(prediction, (image.shape[0], image.shape[1]))
        return beside_overlay(image, labels, self._classes.colours, self._classes.names)

    def example(self, image: Picture, target: Prediction) -> tuple[str, Picture]:
        """Ignored pixels, and padding, show the image."""
        labels, colours, names = target["label_map"], self._classes.colours, self._classes.names
        present, counts = np.unique(labels[labels < len(names)], return_counts=True)
        largest = present[np.argsort(-counts, kind="stable")][:3].tolist()
        return ", ".join(names[k] for k in largest) or "all ignored", overlay(image, labels, colours)


def _cut(prediction: Prediction, size: tuple[int, int]) -> np.ndarray:
    return prediction["label_map"][: size[0], : size[1]]
