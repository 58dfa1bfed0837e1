"""Scenes of digits as a source for detection: the boxes and masks of what ``scenes.py`` composes."""

import numpy as np

from pvt_jax.data.formats.digits.images import refuse_split_names
from pvt_jax.data.formats.digits.scenes import CLASS_NAMES, DigitScenesSource
from pvt_jax.data.objects import Objects, decode_mask
from pvt_jax.data.records import Request, Split

_MOST_DIGITS = 5


class DigitObjectsSource:
    """The digits 0 … 9 in the scenes of ``DigitScenesSource``, whose arguments these are."""

    has_masks = True

    def __init__(
        self, split: Split, *, height: int = 128, width: int = 128, count: int | None = None, seed: int = 0
    ) -> None:
        self._scenes = DigitScenesSource(split, height=height, width=width, count=count, seed=seed)
        self._size = height, width
        self.class_names = CLASS_NAMES[1:]
        self.category_ids = tuple(range(len(self.class_names)))

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> tuple[np.ndarray, Objects]:
        scene = self._scenes.scene(index)
        masks = scene.masks
        areas = masks.sum(axis=(1, 2), dtype=np.int32).astype(np.float64)
        crowd = np.zeros(len(masks), bool)
        ids = np.arange(len(masks), dtype=np.int64)
        return scene.image, Objects(scene.boxes, scene.labels, crowd, areas, ids, tuple(masks))

    def image(self, index: int) -> np.ndarray:
        return self[index][0]

    def objects(self, index: int) -> Objects:
        return self[index][1]

    def masks(self, index: int, objects: Objects) -> list[np.ndarray]:
        return [decode_mask(mask, self._size) for mask in objects.masks or () if mask is not None]

    def without_masks(self) -> int:
        return 0

    def image_id(self, index: int) -> int | str:
        return index

    def name(self, index: int) -> str:
        return self._scenes.name(index)

    def sizes(self) -> np.ndarray:
        return self._scenes.sizes()

    def counts(self) -> np.ndarray:
        """How many digits each scene has, int32 [len(self)]; composes them all."""
        return np.array([len(self.objects(index)) for index in range(len(self))], np.int32)

    def most_objects(self) -> int:
        return _MOST_DIGITS

    def notes(self) -> tuple[str, ...]:
        return ()

    def __str__(self) -> str:
        return str(self._scenes)


def open_digit_objects(request: Request) -> DigitObjectsSource:
    """Opens the scenes with their objects; raises UserError where a config names splits."""
    refuse_split_names("digit_scenes", request)
    return DigitObjectsSource(request.split)
