"""What a person gets of a classification: the best labels with their probabilities."""

from typing import Any

import numpy as np
from PIL import Image

from pvt_jax.tasks.presentation import Picture, Prediction, Presentation
from pvt_jax.visualization.panels import checked, fitted, with_scores

_SIDE = 384
_LEAST = 0.005


class ClassificationPresentation(Presentation):
    """``labels``: label, name and score (its probability) of the ``top_k`` best classes, best first."""

    columns = ("label", "name", "score")

    def fields(self, prediction: Prediction, size: tuple[int, int]) -> dict[str, Any]:
        logits = np.asarray(prediction["logits"], np.float64)
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        best = np.argsort(-scores, kind="stable")[: self._top_k].tolist()
        names = self._classes.names
        return {"labels": [{"label": k, "name": names[k], "score": round(float(scores[k]), 6)} for k in best]}

    def row(self, fields: dict[str, Any]) -> tuple[Any, ...]:
        best = fields["labels"][0]
        return best["label"], best["name"], best["score"]

    def picture(self, image: Picture, prediction: Prediction) -> Picture:
        best = self.fields(prediction, (0, 0))["labels"]
        panel = fitted(checked(image), _SIDE, Image.Resampling.BOX)
        return with_scores(panel, [(one["name"], one["score"]) for one in best])

    def example(self, image: Picture, target: Prediction) -> tuple[str, Picture]:
        """The share of each class that has more than label smoothing gives all."""
        shares = np.asarray(target["target"], np.float64)
        best = np.argsort(-shares, kind="stable")[:2]
        # Of two images in one, the smaller may have next to nothing.
        shown = [k for k in best.tolist() if shares[k] > shares.min() + _LEAST]
        words = ", ".join(f"{self._classes.names[k]} {shares[k]:.2f}" for k in shown)
        return words or "all classes alike", checked(image)
