"""ADE20K as its challenge released it (ADEChallengeData2016): 20,210 + 2,000 images of 150 classes.

Zhou et al., "Scene Parsing through ADE20K Dataset" (CVPR 2017). In the label files 0 is
"other", which is ignored, and class k is k + 1. To train on "other", too, use the source label_folder with 151 classes.
"""

import os

from pvt_jax.data.formats.class_names import NAMES_FILES
from pvt_jax.data.formats.label_folder import LabelFolderSource, open_pairs
from pvt_jax.data.formats.label_sets import find_labels
from pvt_jax.data.formats.layouts import Layout, Tree, find_layout, no_layout, split_names
from pvt_jax.data.options import LabelMapOptions
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.files.folders import find_root

NUM_CLASSES = 150
_FOLDER = "ADEChallengeData2016"
_LAYOUTS = (Layout("images/{split}", "annotations/{split}"),)


def open_ade20k(request: Request) -> LabelFolderSource:
    """Opens a split of ADE20K; the root is ADEChallengeData2016 or what holds it.

    Raises UserError: as ``open_label_folder``; also a model without 150 classes.
    """
    options: LabelMapOptions = request.options
    root = find_root(request.root, "ade20k", f"{_FOLDER}, or that folder")
    if os.path.isdir(os.path.join(root, _FOLDER)):
        root = os.path.join(root, _FOLDER)
    tree = Tree(root)
    found = find_layout(tree, _LAYOUTS, split_names(request))
    if not found:
        way_out = (
            "unpack ADEChallengeData2016.zip (http://sceneparsing.csail.mit.edu) and set data.root to it; for other "
            "layouts set --config.data.source=label_folder"
        )
        raise no_layout(tree, request, "images and label maps", _LAYOUTS, way_out)
    if options.num_classes != NUM_CLASSES:
        raise UserError(
            f"ADE20K has {NUM_CLASSES} classes but model.num_classes is {options.num_classes}: set "
            f"--config.model.num_classes={NUM_CLASSES}"
        )
    has_names = os.path.isfile(os.path.join(root, NAMES_FILES[0]))
    labels = find_labels(options, root if has_names else "", reduce_zero_label=True)
    return open_pairs(root, found, labels, request)
