"""The classes of label maps: from the config, a file beside the images, or as the data set is known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pvt_jax.data.formats.class_lists import find_class_list
from pvt_jax.data.formats.class_names import without_ignored
from pvt_jax.data.options import LabelMapOptions
from pvt_jax.errors import UserError
from pvt_jax.files.labels import LabelEncoding, distinct_colours
from pvt_jax.messages import escaped


@dataclass(frozen=True, eq=False)
class LabelSet:
    """The classes of a source: names, colours uint8 [K, 3], and how label maps encode them."""

    class_names: tuple[str, ...]
    palette: np.ndarray
    encoding: LabelEncoding


def find_labels(
    options: LabelMapOptions,
    root: str = "",
    *,
    known_as: str = "",
    names: Sequence[str] = (),
    palette: Sequence[Sequence[int]] = (),
    reduce_zero_label: bool = False,
    mapping: dict[int, int] | None = None,
) -> LabelSet:
    """Returns the classes named in ``options``, else in a file in ``root``, else those known of the data set.

    Raises UserError: another number of names than ``options.num_classes``, two that are the same, or a file that cannot
    be read.

    Args:
        options: the config's.
        root: a folder that may have a file of names; "" for none.
        known_as, names, palette: title and classes of a data set that is known.
        reduce_zero_label, mapping: of ``LabelEncoding``. The mapping replaces the options' reduce_zero_label.
    """
    count = options.num_classes
    class_names, where, coded = tuple(names), known_as, options.palette
    if options.class_names:
        # In a config, numbers may be names: digits, for example.
        class_names, where = tuple(map(str, options.class_names)), "segmentation.class_names"
    elif root and (found := find_class_list(root)):
        class_names, where, coded = found.names, found.path, coded or found.colours
        if found.values and mapping is None:
            mapping = {value: label for label, value in enumerate(found.values)}
    reduced = reduce_zero_label or (options.reduce_zero_label and mapping is None)
    listed, class_names = class_names, without_ignored(class_names, reduced)
    if class_names != listed and coded != options.palette:
        # The first one's pixels are ignored.
        coded = (*coded[1:], coded[0])
    if class_names and len(class_names) != count:
        correct = "" if where == known_as else f", or correct {escaped(where)}"
        raise UserError(
            f"{escaped(where)} has {len(class_names)} classes but model.num_classes is {count}: set "
            f"--config.model.num_classes={len(class_names)}{correct}"
        )
    if same := [label for label, name in enumerate(class_names) if name in class_names[:label]]:
        # Each has a metric of its own, by its name.
        name = class_names[same[0]]
        raise UserError(
            f"{escaped(where)} names both class {class_names.index(name)} and class {same[0]} '{name}': give each "
            f"class a name of its own"
        )
    class_names = class_names or tuple(f"class {label}" for label in range(count))
    encoding = LabelEncoding(count, tuple(options.ignore_labels), reduced, mapping, coded or None)
    if coded or len(palette) == count:
        colours = np.array((coded or palette)[:count], np.uint8)
    else:
        colours = distinct_colours(count)
    return LabelSet(class_names, colours, encoding)
