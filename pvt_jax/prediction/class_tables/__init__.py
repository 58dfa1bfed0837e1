"""Classes of the data sets that published weights are for, by the name of the data set: a new one is a row here."""

from typing import NamedTuple

from pvt_jax.data.classes import Classes
from pvt_jax.data.formats.cityscapes import CLASSES as CITYSCAPES
from pvt_jax.data.formats.class_names import VOC_CLASSES
from pvt_jax.prediction.class_tables import ade20k, coco, imagenet


class ClassTable(NamedTuple):
    """The classes of a data set, what people call it, and the task whose weights it is for."""

    title: str
    task: str
    classes: Classes


CLASS_TABLES: dict[str, ClassTable] = {
    "imagenet": ClassTable("ImageNet-1k", "classification", Classes(imagenet.NAMES)),
    "ade20k": ClassTable("ADE20K", "segmentation", Classes(ade20k.NAMES)),
    "cityscapes": ClassTable(
        "Cityscapes",
        "segmentation",
        Classes(tuple(name for name, _, _ in CITYSCAPES), tuple(colour for _, _, colour in CITYSCAPES)),
    ),
    "voc_segmentation": ClassTable("Pascal VOC", "segmentation", Classes(VOC_CLASSES)),
    "coco": ClassTable("COCO", "detection", Classes(coco.NAMES, category_ids=coco.CATEGORY_IDS)),
    "voc": ClassTable("Pascal VOC", "detection", Classes(VOC_CLASSES[1:])),
}


def table_of(task: str, num_classes: int) -> ClassTable | None:
    """Returns the one data set of a task with so many classes; None if there is none."""
    found = [row for row in CLASS_TABLES.values() if row.task == task and len(row.classes.names) == num_classes]
    return found[0] if len(found) == 1 else None


def of_stated(task: str, names: tuple[str, ...], palette: tuple[tuple[int, int, int], ...] | None) -> Classes:
    """Classes that a file of another project names; colours and ids that it lacks are those of a set of these names."""
    known = next(
        (row.classes for row in CLASS_TABLES.values() if row.task == task and row.classes.names == names), None
    )
    if known is None:
        return Classes(names, palette)
    return Classes(names, palette or known.palette, known.category_ids)
