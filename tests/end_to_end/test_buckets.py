"""Runs, weights and data in a bucket, which a server on the loopback keeps: trained, killed, resumed, evaluated."""

import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax import paths
from pvt_jax.data.formats.tfds.records import open_tfds
from pvt_jax.data.records import Request
from pvt_jax.errors import UserError
from pvt_jax.prediction.trained import Choices, open_trained
from pvt_jax.training import lock
from pvt_jax.training.lock import lock_of
from pvt_jax.training.store import CheckpointStore
from pvt_jax.weights import places
from pvt_jax.weights.known import cache_folder
from pvt_jax.weights.load import read_checkpoint
from pvt_jax.weights.places import located
from tests.helpers.buckets import NAME, serve_bucket
from tests.helpers.command import arguments, records, run_here, start
from tests.helpers.programs import shared_programs  # noqa: F401
from tests.helpers.runs import assert_same_end, kill_when
from tests.helpers.tfds_data import png, prepare_tfds

STEPS = 6
pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    # Not imported yet: it reads its environment then.
    if importlib.util.find_spec("gcsfs") is None:
        pytest.skip("gcsfs, of the extra gcs, is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PVT_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        with serve_bucket(patch) as bucket:
            yield bucket


def flags_of(workdir):
    """Six steps, a checkpoint every other one, an evaluation after the third and at the end."""
    options = {"checkpoint__every_steps": "2", "checkpoint__keep": "5", "evaluation__every_epochs": "0.07"}
    return arguments(workdir, steps=str(STEPS), **options)


@pytest.fixture(scope="module")
def run(bucket, shared_programs, tmp_path_factory):  # noqa: F811
    """A local copy of a run in the bucket that was killed while it wrote its checkpoint of step 4, and went on."""
    flags = flags_of(f"gs://{NAME}/mine/run")
    bucket.held = "checkpoints/4/commit_success.txt"
    kill_when(bucket.holds.is_set, start(flags))
    bucket.held = ""
    left = {name.split("/")[3] for name in bucket.names("mine/run/checkpoints/")}
    assert {"3", "4"} <= left and "mine/run/run.lock" in bucket.names()
    # All lines up to the last whole checkpoint are there.
    kept = bucket.copy_to(tmp_path_factory.mktemp("killed"), "mine/run/")
    assert [line["step"] for line in records(kept)][:3] == [1, 2, 3] and records(kept, "eval")[0]["step"] == 3
    out, err = run_here(flags)
    assert out.startswith(f"done: step {STEPS}") and f"in gs://{NAME}/mine/run (" in out
    assert re.search(
        rf"process \d+ on .* ended without releasing gs://{NAME}/mine/run/run.lock: this run takes over", err
    )
    assert "resuming after step 3" in err
    return bucket.copy_to(tmp_path_factory.mktemp("copied") / "run", "mine/run/")


def test_a_killed_run_goes_on_to_the_bits_of_a_local_one(run, bucket, tmp_path):
    run_here(flags_of(tmp_path / "local"))
    assert_same_end(run, tmp_path / "local", STEPS)
    names = {path.name for path in (tmp_path / "local").iterdir()}
    assert {path.name for path in run.iterdir()} == names and "run.lock" not in names
    assert (run / "config.json").read_bytes() == (tmp_path / "local" / "config.json").read_bytes()
    # An event file for each start, whole.
    assert len(list((run / "tensorboard").iterdir())) == 2
    assert not [name for name in bucket.writes if name.endswith(".tmp")]


def test_it_is_evaluated_and_goes_on_only_where_something_is_left(run, bucket):
    url, before = f"gs://{NAME}/mine/run", bucket.names()
    out, _ = run_here([*flags_of(url), "--mode=eval", "--step=3"])
    first, last = records(run, "eval")
    numbers = "  ".join(f"{name} {first[name]:.4g}" for name in ("loss", "top1", "top5"))
    assert out == f"evaluated: step 3  {numbers}  of {url}\n"
    out, _ = run_here([*flags_of(url), "--mode=eval"])
    assert f"step 6  loss {last['loss']:.4g}" in out and bucket.names() == before
    _, err = run_here([*flags_of(url), "--config.seed=5"], 2)
    assert err.startswith(f"error: {url} holds a run of another config (seed: 0 → 5): use another --workdir")
    _, err = run_here([*flags_of(f"gs://{NAME}/none"), "--mode=eval"], 2)
    assert err == f"error: no config.json in gs://{NAME}/none: this is not the --workdir of a run\n"


def test_a_damaged_checkpoint_is_put_aside(bucket, caplog):
    place = paths.place(f"gs://{NAME}/store", "it") / "checkpoints"
    tree = {"params": {"kernel": jnp.arange(6.0)}}
    store = CheckpointStore(place)
    for step in (1, 2):
        store.save(step, jax.tree.map(lambda leaf, step=step: leaf + step, tree))
    store.wait()
    for name in bucket.names("store/checkpoints/2/params/"):
        bucket.put(name, b"damaged")
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
    step, found = store.restore(shapes) or (0, {})
    assert step == 1 and found["params"]["kernel"].tolist() == [1, 2, 3, 4, 5, 6]
    assert store.steps() == [1]
    store.close()
    assert f"checkpoint {place}/2 is damaged" in caplog.text
    assert f"moved to gs://{NAME}/store/checkpoints_damaged/2" in caplog.text
    assert bucket["store/checkpoints_damaged/2/params/manifest.ocdbt"] == b"damaged"
    assert not bucket.names("store/checkpoints/2/")


def test_one_run_at_a_time(bucket, monkeypatch):
    monkeypatch.setattr(lock, "_SETTLING", 0.05)
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "PATIENCE", 1.0)
    workdir, said = paths.place(f"gs://{NAME}/locked", "it"), []
    with lock_of(workdir, said.append) as first, lock_of(workdir, said.append) as second:
        assert first.take() and not first.take()
        with pytest.raises(
            UserError, match=rf"process \d+ on .* has been training in gs://{NAME}/locked since 20.*: let it"
        ):
            second.take()
    assert bucket.names("locked/") == []
    # Of a process that is gone from another host nothing is known.
    bucket.put("locked/run.lock", b'{"host": "elsewhere", "process": 7}')
    said.clear()
    with lock_of(workdir, said.append) as third:
        assert third.take()
        assert said == [
            f"process 7 on elsewhere left {workdir}/run.lock behind: waiting 1 s for a sign of life of it",
            "process 7 on elsewhere gives no sign of life: this run takes over",
        ]
        # Whoever wrote last has it.
        bucket.put("locked/run.lock", b'{"host": "elsewhere", "process": 8, "token": "other"}')
        third._beats.join(5)
    assert said[2:] == [f"process 8 on elsewhere has taken over {workdir}/run.lock: stop one of the two runs"]
    assert bucket.names("locked/") == ["locked/run.lock"]


def test_a_bucket_that_is_not_there_or_not_ours(bucket):
    with pytest.raises(UserError) as error:
        paths.place("gs://elsewhere/x", "--workdir")
    assert (
        str(error.value)
        == "--workdir gs://elsewhere/x: there is no bucket gs://elsewhere, or it is not yours: check its name"
    )
    bucket.refusal = 403
    try:
        with pytest.raises(UserError) as error:
            paths.place(f"gs:/{NAME}/x", "--workdir")
    finally:
        bucket.refusal = 0
    assert re.fullmatch(
        rf"--workdir gs://{NAME}/x cannot be reached \(Forbidden: .*\): check its name and the network, and log in "
        r"\(gcloud auth application-default login\)",
        str(error.value),
    )


def test_weights_of_a_run_in_a_bucket(run, bucket):
    url = f"gs://{NAME}/mine/run"
    newest = read_checkpoint(f"{url}/checkpoints")
    jax.tree.map(np.testing.assert_array_equal, newest.tensors, read_checkpoint(run).tensors)
    assert newest.described == f"{url}/checkpoints/6"
    for source, step in ((url, "latest"), (f"{url}/", "4")):
        trained, expected = (open_trained(str(each), Choices(step=step)) for each in (source, run))
        assert trained.notes[0].replace(url, str(run)) == expected.notes[0] and trained.config == expected.config
        jax.tree.map(np.testing.assert_array_equal, trained.variables, expected.variables)
        assert trained.classes == expected.classes
    kept = cache_folder() / "buckets" / "gs" / NAME / "mine" / "run"
    assert sorted(path.name for path in (kept / "checkpoints").iterdir()) == ["4", "6"]
    assert not list(kept.rglob("opt_state"))
    assert open_trained(url, Choices(step="best")).notes[0].startswith(f"{url}/checkpoints/")
    with pytest.raises(UserError, match=f"no checkpoint of step 5 in {url}: there are 2, 3, 4, 6"):
        open_trained(url, Choices(step="5"))
    with pytest.raises(UserError, match=f"there is no gs://{NAME}/nothing: check its name"):
        open_trained(f"gs://{NAME}/nothing")


def test_a_file_is_fetched_once_and_again_when_it_changes(bucket, monkeypatch):
    """Also a fetch that was broken off goes on where it was."""
    content = bytes(range(256)) * 4
    bucket.put("models/a/model.safetensors", content)
    bucket.put("models/a/pytorch_model.bin", b"not needed")
    bucket.put("models/a/config.json", b"{}")
    kept = cache_folder() / "buckets" / "gs" / NAME / "models" / "a"
    monkeypatch.setattr(places, "_CHUNK", 256)
    reads = []

    def broken_off(self, size):
        reads.append(size)
        if len(reads) == 5:
            raise ConnectionError("gone away")
        return whole(self, size)

    import gcsfs.core

    whole = gcsfs.core.GCSFile.read
    with monkeypatch.context() as patch:
        patch.setattr(gcsfs.core.GCSFile, "read", broken_off)
        with pytest.raises(UserError) as error:
            located(f"gs://{NAME}/models/a")
    told = f"cannot fetch gs://{NAME}/models/a (gone away): run it again to go on, or copy it"
    assert str(error.value) == told and (kept / ".model.safetensors.part").read_bytes() == content[:512]
    assert located(f"gs://{NAME}/models/a") == kept
    assert (kept / "model.safetensors").read_bytes() == content
    assert sorted(path.name for path in kept.iterdir() if path.name[0] != ".") == ["config.json", "model.safetensors"]
    changed = (kept / "model.safetensors").stat().st_mtime_ns
    places._of_bucket.cache_clear()
    located(f"gs://{NAME}/models/a")
    assert (kept / "model.safetensors").stat().st_mtime_ns == changed
    bucket.put("models/a/model.safetensors", content[::-1])
    places._of_bucket.cache_clear()
    located(f"gs://{NAME}/models/a")
    assert (kept / "model.safetensors").read_bytes() == content[::-1]


def test_records_of_tfds_in_a_bucket(bucket, tmp_path):
    import tensorflow_datasets as tfds

    image, label = tfds.features.Image(shape=(None, None, 3)), tfds.features.ClassLabel(names=["a", "b"])
    features = {"image": image, "label": label}
    rows = [{"image": png((4, 6)), "label": label} for label in (1, 0, 1)]
    prepare_tfds(tmp_path, "toy", (), features, {"train": rows, "test": rows[:1]})
    bucket.copy_from(tmp_path, "sets/")
    source = open_tfds(Request("train", "toy", f"gs://{NAME}/sets"))
    assert [source[index]["label"] for index in range(3)] == [1, 0, 1] and source.class_names == ("a", "b")
    assert source[0]["image"] == png((4, 6)).getvalue()
