"""What a run remembers of its data, and how it differs from the data of another day."""

import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax.data.description import (
    DataDescription,
    SplitDescription,
    difference_of_classes,
    difference_of_colours,
    difference_of_records,
)

# As folders are called: with accents, in any script, with bytes that are no UTF-8.
names = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=5) | st.sampled_from(["é", "\udcff", "1"])
lists = st.lists(names, min_size=1, max_size=6, unique_by=lambda name: unicodedata.normalize("NFC", name))


def description(class_names=("cat", "dog"), train=4, evaluation=2, **more):
    splits = {"train": SplitDescription(train, "here"), "eval": SplitDescription(evaluation, "there")}
    return DataDescription(task="segmentation", format="folder", class_names=tuple(class_names), **splits, **more)


@settings(max_examples=40)
@given(class_names=lists, count=st.integers(0, 10**9), coloured=st.booleans())
def test_written_and_read_again_it_is_the_same(class_names, count, coloured):
    more = {"palette": ((1, 2, 255),) * len(class_names)} if coloured else {"category_ids": (7,)}
    described = description(class_names, train=count, **more)
    text = described.to_json()
    assert DataDescription.from_json(text.encode("ascii").decode()) == described
    assert DataDescription.from_json(text.replace("{", '{"of a later version": [1], ', 1)) == described


@settings(max_examples=40)
@given(class_names=lists, coloured=st.booleans())
def test_a_file_of_weights_keeps_the_classes(class_names, coloured):
    more = {"palette": ((1, 2, 255),) * len(class_names)} if coloured else {"category_ids": (7,)}
    metadata = description(class_names, **more).to_metadata()
    assert json.loads(metadata["class_names"]) == class_names and metadata["task"] == "segmentation"
    assert metadata.keys() == {"task", "class_names", *more} and all(text.isascii() for text in metadata.values())
    read = DataDescription.from_metadata({"format": "pt", **metadata})
    assert read == DataDescription("segmentation", "", tuple(class_names), **more)
    # What is not known is no change.
    assert difference_of_records(read, description(class_names)) == ""
    assert DataDescription.from_json(read.to_json()) == read


@pytest.mark.parametrize("text", ["cat,dog", '"cat"', "{}", "null", "[" * 10**5])
def test_entries_of_others_are_no_classes(text):
    assert DataDescription.from_metadata({"task": "classification", "class_names": text}) is None
    assert DataDescription.from_metadata({"class_names": '["cat", "dog"]'}) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"class_names": "abc"}', "null"])
def test_something_else_is_not_read(text):
    with pytest.raises((ValueError, KeyError, TypeError)):
        DataDescription.from_json(text)


@settings(max_examples=40)
@given(class_names=lists, order=st.randoms(use_true_random=False))
def test_only_the_same_names_in_the_same_order_are_equal(class_names, order):
    for form in ("NFC", "NFD"):
        assert difference_of_classes(class_names, [unicodedata.normalize(form, name) for name in class_names]) == ""
    other = order.sample(class_names, len(class_names))
    found = difference_of_classes(class_names, other)
    assert bool(found) == (other != class_names)
    assert ("the same in another order" in found) == bool(found)
    assert difference_of_classes(class_names, [*class_names, "a name of its own"]).count("a name of its own") >= 1
    assert len(found.splitlines()) <= 1 and found.encode("utf-8")[:10] == b"it learned"[: len(found)]


def test_the_difference_in_words():
    assert difference_of_classes(("cat", "dog"), ("dog", "zebra")) == (
        "it learned 2 classes (cat, dog), the data has 2 (dog, zebra); gone: cat; added: zebra; label 0 was 'cat' and "
        "is 'dog', label 1 was 'dog' and is 'zebra'"
    )
    many = [str(number) for number in range(1000)]
    assert difference_of_classes(many, [*many[:-1], "x"]) == (
        "it learned 1,000 classes (0, 1, 2, 3, 4, 5, 6, 7 and 992 more), the data has 1,000 (0, 1, 2, 3, 4, 5, 6, 7 "
        "and 992 more); gone: 999; added: x; label 999 was '999' and is 'x'"
    )
    assert difference_of_classes(("a",), ("a", "b")) == "it learned 1 class (a), the data has 2 (a, b); added: b"


def test_records_and_colours_in_words():
    before, now = description(train=1000), description(train=1200, evaluation=1)
    assert difference_of_records(before, before) == ""
    assert difference_of_records(before, now) == "1,000 → 1,200 training, 2 → 1 evaluation"
    red, green = description(palette=((255, 0, 0), (0, 0, 0))), description(palette=((0, 255, 0), (0, 0, 0)))
    assert difference_of_colours(red, red) == difference_of_colours(before, red) == ""
    assert difference_of_colours(red, green) == "'cat' was (255, 0, 0) and is (0, 255, 0)"
