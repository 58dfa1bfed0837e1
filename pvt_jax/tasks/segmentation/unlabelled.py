"""Images without ground truth."""

import numpy as np

from pvt_jax.data.records import SegmentationRecord
from pvt_jax.data.unlabelled import Unlabelled
from pvt_jax.files.labels import IGNORE, LabelEncoding


class UnlabelledImages(Unlabelled):
    """All pixels of the label maps are ignored."""

    encoding = LabelEncoding(1, (IGNORE,))

    def __getitem__(self, index: int) -> SegmentationRecord:
        image = self.image(index)
        return {"image": image, "label_map": np.full(image.shape[:2], IGNORE, np.uint8)}

    def label_name(self, index: int) -> str:
        return self.name(index)
