"""The input pipeline: order, hosts, workers, resume, repeated augmentation, padding, corrupt images."""

import itertools

import numpy as np
import pytest
from PIL import Image

from pvt_jax.data import pipeline
from pvt_jax.data.formats import LABELLED_IMAGES, open_source
from pvt_jax.data.records import Request
from pvt_jax.errors import CorruptImageError
from pvt_jax.tasks.classification import transforms
from pvt_jax.tasks.classification.examples import ClassificationEvaluation, ClassificationTraining

SIDE = (12, 12)


class Numbered:
    """Images whose every pixel is their own number; ``labels`` too."""

    labels = None

    def __init__(self, count: int, corrupt: tuple[int, ...] = ()):
        self.count, self.corrupt = count, corrupt
        self.class_names = tuple(str(i) for i in range(count))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        image = b"no image" if index in self.corrupt else np.full((*SIDE, 3), index, np.uint8)
        return {"image": image, "label": index}

    def name(self, index: int) -> str:
        return f"record {index}"


def stamp(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Keeps the number in one pixel and writes a random draw into another."""
    stamped = image.copy()
    stamped[0, 1] = rng.integers(0, 256, 3)
    return stamped


def training(source, count, *, batch_size=6, loading=None, **options):
    loading = loading or pipeline.Loading(threads=2)
    example = ClassificationTraining(stamp)
    batches = pipeline.training_batches(
        source, example, batch_size=batch_size, loading=loading, **{"seed": 3, **options}
    )
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def labels(batches):
    return np.stack([batch["label"] for batch in batches])


def same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_batches_are_uint8_images_with_int32_labels():
    batch = training(Numbered(20), 1)[0]
    assert batch["image"].shape == (6, *SIDE, 3) and batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32 and batch["corrupt"].dtype == np.int32
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])


def test_an_epoch_shows_every_image_once_and_epochs_differ():
    epochs = labels(training(Numbered(24), 8)).reshape(2, 24)
    for epoch in epochs:
        assert sorted(epoch) == list(range(24))
    assert (epochs[0] != epochs[1]).any() and (epochs[0] != np.arange(24)).any()


def test_the_stream_depends_on_the_seed():
    first, again, other = (training(Numbered(24), 3, seed=seed) for seed in (3, 3, 4))
    same(first, again)
    assert (labels(first) != labels(other)).any()


def test_a_resume_needs_only_the_step():
    whole = training(Numbered(25), 9)
    same(training(Numbered(25), 4, start_step=5), whole[5:])


def test_hosts_take_contiguous_blocks_of_the_same_batches():
    whole = training(Numbered(25), 4, batch_size=6)
    blocks = [training(Numbered(25), 4, batch_size=6, block=(number, 3)) for number in range(3)]
    joined = [
        {name: np.concatenate([blocks[n][step][name] for n in range(3)]) for name in whole[0]} for step in range(4)
    ]
    same(joined, whole)


def test_worker_processes_change_nothing():
    source = open_source(LABELLED_IMAGES, "digits", Request("train"))
    transform = transforms.TrainTransform(SIDE, policy="rand-m9-mstd0.5-inc1")
    taken = []
    for workers in (0, 2):
        batches = pipeline.training_batches(
            source,
            ClassificationTraining(transform),
            batch_size=8,
            seed=1,
            start_step=3,
            block=(1, 2),
            loading=pipeline.Loading(workers=workers, threads=2),
        )
        taken.append(list(itertools.islice(batches, 5)))
        batches.close()
    same(*taken)


def test_repeated_augmentation_shows_a_third_three_times_each_augmented_anew():
    batches = training(Numbered(24), 8, repeats=3)
    first, second = labels(batches).reshape(2, 8, 3)
    for epoch in (first, second):
        assert (epoch == epoch[:, :1]).all(), "copies stand in a row"
        assert len(set(epoch[:, 0])) == 8, "an epoch of 24 shows 8 different images"
    assert set(first[:, 0]) != set(second[:, 0])
    draws = np.concatenate([batch["image"][:, 0, 1] for batch in batches]).reshape(16, 3, 3)
    assert all(len({tuple(copy) for copy in image}) == 3 for image in draws)


def test_a_corrupt_image_stops_with_its_name():
    with pytest.raises(CorruptImageError, match="record 7"):
        training(Numbered(24, corrupt=(7,)), 4)


def test_skipping_replaces_corrupt_images_and_counts_them():
    clean = labels(training(Numbered(24), 4))
    batches = training(Numbered(24, corrupt=(7, 8, 23)), 4, loading=pipeline.Loading(on_corrupt="skip", threads=2))
    expected = np.select([(clean == 7) | (clean == 8), clean == 23], [9, 0], clean)
    np.testing.assert_array_equal(labels(batches), expected)
    assert sum(int(batch["corrupt"].sum()) for batch in batches) == 2 + 1 + 1


def test_skipping_gives_up_when_nothing_can_be_read():
    loading = pipeline.Loading(on_corrupt="skip", threads=2)
    with pytest.raises(CorruptImageError, match="100 undecodable images in a row"):
        training(Numbered(24, corrupt=tuple(range(24))), 1, loading=loading)


@pytest.mark.parametrize("count", [1, 6, 13])
@pytest.mark.parametrize("hosts", [1, 2])
def test_evaluation_pads_the_last_batch_and_drops_nothing(count, hosts):
    example = ClassificationEvaluation(transforms.EvalTransform(SIDE, 1.0))
    seen = []
    for number in range(hosts):
        batches = list(
            pipeline.evaluation_batches(
                Numbered(count), example, batch_size=6, block=(number, hosts), loading=pipeline.Loading(threads=2)
            )
        )
        assert len(batches) == -(-count // 6), "every host takes part in every batch"
        for batch in batches:
            assert batch["image"].shape == (6 // hosts, *SIDE, 3)
            seen += list(batch["label"][batch["mask"]])
            np.testing.assert_array_equal(batch["record"][batch["mask"]], batch["label"][batch["mask"]])
            assert (batch["record"][~batch["mask"]] == -1).all()
            assert not batch["image"][~batch["mask"]].any()
    assert sorted(seen) == list(range(count))


def test_evaluation_masks_corrupt_images_when_told_to_skip():
    example = ClassificationEvaluation(transforms.EvalTransform(SIDE, 1.0))
    source = Numbered(8, corrupt=(2,))
    loading = pipeline.Loading(on_corrupt="skip", threads=2)
    batches = list(pipeline.evaluation_batches(source, example, batch_size=8, loading=loading))
    assert sum(batch["mask"].sum() for batch in batches) == 7 and batches[0]["corrupt"].sum() == 1
    with pytest.raises(CorruptImageError, match="record 2"):
        list(pipeline.evaluation_batches(source, example, batch_size=8, loading=pipeline.Loading(threads=2)))


class Kinds:
    """Examples whose shape is their kind."""

    def __call__(self, source, index, kind):
        return {"image": np.full((kind, 3), source[index]["label"], np.uint8)}

    def blank(self, kind):
        return {"image": np.zeros((kind, 3), np.uint8)}


@pytest.mark.parametrize("hosts", [1, 2])
def test_evaluation_takes_records_in_any_order_with_shapes_by_batch(hosts):
    order, kinds = np.array([5, 0, 3, -1, 1, 2, 4, -1]), np.array([2, 2, 2, 2, 7, 7, 7, 7])
    parts = [
        list(
            pipeline.evaluation_batches(
                Numbered(6),
                Kinds(),
                batch_size=4,
                order=order,
                kinds=kinds,
                block=(number, hosts),
                loading=pipeline.Loading(threads=2),
            )
        )
        for number in range(hosts)
    ]
    batches = [{name: np.concatenate([p[i][name] for p in parts]) for name in parts[0][0]} for i in range(2)]
    assert [batch["image"].shape for batch in batches] == [(4, 2, 3), (4, 7, 3)]
    np.testing.assert_array_equal(np.concatenate([batch["record"] for batch in batches]), order)
    np.testing.assert_array_equal(np.concatenate([batch["mask"] for batch in batches]), order >= 0)
    np.testing.assert_array_equal(np.concatenate([b["image"][:, 0, 0] for b in batches]), np.maximum(order, 0))


def test_a_corrupt_file_is_named_from_a_worker_process(tmp_path):
    for split, class_name in itertools.product(("train", "val"), ("a", "b")):
        folder = tmp_path / split / class_name
        folder.mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (20, 20), (number * 50, 0, 0)).save(folder / f"{number}.png")
    bad = tmp_path / "train" / "b" / "1.png"
    bad.write_bytes(bad.read_bytes()[:40])
    source = open_source(LABELLED_IMAGES, "folder", Request("train", root=str(tmp_path)))
    with pytest.raises(CorruptImageError, match=str(bad)):
        training(source, 3, batch_size=2, loading=pipeline.Loading(workers=1, threads=1))
