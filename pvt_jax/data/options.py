"""What a config tells a format of a data set, beyond where it is. Empty values mean: to be found."""

from dataclasses import dataclass

Colour = tuple[int, int, int]
IGNORE = 255


@dataclass(frozen=True)
class SegmentationOptions:
    """What a config says of a data set of label maps; see its section ``segmentation``.

    Attributes:
        num_classes: K, the outputs of the model.
        class_names: K names.
        palette: (red, green, blue) of the K classes; further colours of RGB-coded label maps are ignored pixels.
        ignore_labels: stored values that are ignored.
        reduce_zero_label: the stored 0 is ignored, too, and v is class v - 1. The source ade20k does so in any case.
        image_folder, label_folder: below the root, with {split} in place of the split's name. For TFDS the names of the
            features.
        image_suffix, label_suffix: ends of file stems, such as "_leftImg8bit", that an image and its label map do not
            share.
    """

    num_classes: int
    class_names: tuple[str, ...] = ()
    palette: tuple[Colour, ...] = ()
    ignore_labels: tuple[int, ...] = (IGNORE,)
    reduce_zero_label: bool = False
    image_folder: str = ""
    label_folder: str = ""
    image_suffix: str = ""
    label_suffix: str = ""


@dataclass(frozen=True)
class DetectionOptions:
    """What a config says of a data set of objects; see its section ``detection``.

    Attributes:
        num_classes: K, the classes that the model detects.
        class_names: K names, in the order of their indices; objects of other classes are left out.
        annotations: path of the COCO JSON, or of the folder of XML files, below the root, with {split} in it.
        image_folder: path of the images below the root, with {split} in place of the split's name.
        with_masks: whether masks are read.
        keep_empty: whether training keeps images without objects.
    """

    num_classes: int
    class_names: tuple[str, ...] = ()
    annotations: str = ""
    image_folder: str = ""
    with_masks: bool = False
    keep_empty: bool = False
