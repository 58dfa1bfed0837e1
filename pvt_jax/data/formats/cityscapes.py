"""Cityscapes in its own folders, leftImg8bit/{split}/{city} + gtFine/{split}/{city}: 2,975 + 500 images, 19 classes.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding" (CVPR 2016).
"""

import os
from dataclasses import replace

from pvt_jax.data.formats.label_folder import LabelFolderSource, open_pairs
from pvt_jax.data.formats.label_sets import LabelSet, find_labels
from pvt_jax.data.formats.layouts import Layout, Tree, find_layout, no_layout, split_names
from pvt_jax.data.options import LabelMapOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.files.folders import find_root, scan

# Class, its id in *_labelIds.png, and its colour; the row is its id in *_labelTrainIds.png.
CLASSES = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
# Ids run from 0, unlabelled, to 33; those that are not evaluated are ignored.
_NUM_IDS = 34
_IMAGE_SUFFIX = "_leftImg8bit"
_TRAIN_IDS, _IDS = "_gtFine_labelTrainIds", "_gtFine_labelIds"
_LAYOUTS = (Layout("leftImg8bit/{split}", "gtFine/{split}"),)


def open_cityscapes(request: Request) -> LabelFolderSource:
    """Opens a split of Cityscapes; the root holds leftImg8bit and gtFine.

    Ids are mapped to the 19 classes where there are no *_labelTrainIds.png. Raises UserError: as ``open_label_folder``;
    also a model without 19 classes, or the split test.
    """
    tree = Tree(find_root(request.root, "cityscapes", "leftImg8bit and gtFine"))
    found = find_layout(tree, _LAYOUTS, split_names(request))
    if (found.split if found else request.split_name) == "test":
        raise UserError("the labels of Cityscapes' split test are not public: set data.eval_split to val")
    if not found:
        way_out = (
            "unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip (https://www.cityscapes-dataset.com) into "
            "one folder and set data.root to it"
        )
        raise no_layout(tree, request, "images and label maps", _LAYOUTS, way_out)
    is_mapped = not any(os.path.splitext(path)[0].endswith(_TRAIN_IDS) for path in scan(found[1]))
    labels = cityscapes_labels(request.options, by_id=is_mapped)
    return open_pairs(tree.root, found, labels, request, _IMAGE_SUFFIX, _IDS if is_mapped else _TRAIN_IDS, tell=False)


def cityscapes_labels(options: LabelMapOptions, *, by_id: bool) -> LabelSet:
    """Returns the 19 classes, stored by ids or by train ids; raises UserError for a model with another number."""
    names, ids, colours = zip(*CLASSES, strict=True)
    mapping = None
    if by_id:
        mapping = {stored: label for label, stored in enumerate(ids)}
        unused = set(range(_NUM_IDS)) - mapping.keys()
        options = replace(options, ignore_labels=(*sorted(unused), *options.ignore_labels))
    return find_labels(options, known_as="Cityscapes", names=names, palette=colours, mapping=mapping)
