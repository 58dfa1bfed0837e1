"""The balanced order: every class equally often, every image of a class equally often, by seed and number alone."""

import pickle

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax.data import pipeline
from pvt_jax.data.formats.digits.images import open_digits
from pvt_jax.data.records import Request
from pvt_jax.tasks.classification.sampling import Balanced


@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(0, 7), min_size=1, max_size=4).filter(any), seed=st.integers(0, 99))
def test_classes_and_images_come_equally_often(counts, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    order = Balanced(labels, seed)
    assert len(order) == len(labels)
    present, rounds = np.unique(labels), 14
    drawn = np.array([order[n] for n in range(rounds * len(present))])
    for chunk in labels[drawn].reshape(rounds, -1):
        assert sorted(chunk) == present.tolist()
    for label in present.tolist():
        often = np.bincount(drawn[labels[drawn] == label], minlength=len(labels))[labels == label]
        assert often.max() - often.min() <= 1 and often.sum() == rounds
    # A worker, or a run that goes on, has no need of what came before.
    again = pickle.loads(pickle.dumps(order))
    assert again[len(drawn) - 1] == drawn[-1]
    if len(labels) > 4:
        assert [Balanced(labels, seed + 1)[n] for n in range(len(drawn))] != drawn.tolist()


def example(source, index, kind, rng):
    return {"label": np.int32(source.labels[index]), "index": np.int32(index), "draw": rng.integers(1 << 30)}


def test_batches_resume_by_the_step_alone():
    source = open_digits(Request("train"))
    settings = {"batch_size": 20, "seed": 3, "order": lambda seed: Balanced(source.labels, seed)}
    loading = pipeline.Loading(threads=1)
    whole = pipeline.training_batches(source, example, loading=loading, **settings)
    batches = [next(whole) for _ in range(6)]
    whole.close()
    for batch in batches:
        assert np.bincount(batch["label"]).tolist() == [2] * 10
    later = pipeline.training_batches(source, example, loading=loading, start_step=4, **settings)
    for expected in batches[4:]:
        found = next(later)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
    later.close()
    # Of two hosts each takes its half.
    halves = [pipeline.training_batches(source, example, loading=loading, block=(n, 2), **settings) for n in range(2)]
    np.testing.assert_array_equal(np.concatenate([next(half)["index"] for half in halves]), batches[0]["index"])
    for half in halves:
        half.close()
