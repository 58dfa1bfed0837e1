"""Images without ground truth."""

from pvt_jax.data.records import ClassificationRecord
from pvt_jax.data.unlabelled import Unlabelled


class UnlabelledImages(Unlabelled):
    """Label 0 stands for none."""

    def __getitem__(self, index: int) -> ClassificationRecord:
        return {"image": self.image(index), "label": 0}
