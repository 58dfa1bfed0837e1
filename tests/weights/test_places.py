"""Weights in a bucket are fetched once, and again when they have changed; S3 is a file system in memory."""

import sys

import numpy as np
import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem

from pvt_jax import paths
from pvt_jax.errors import UserError
from pvt_jax.weights import places
from pvt_jax.weights.files import write_safetensors
from pvt_jax.weights.known import cache_folder
from pvt_jax.weights.load import read_checkpoint


class Bucket(MemoryFileSystem):
    """As s3fs, which tells no time that etils understands."""

    protocol = ("s3",)
    store = {}
    pseudo_dirs = [""]
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("s3://"))

    def info(self, path, **options):
        return {name: value for name, value in super().info(path, **options).items() if name != "mtime"}

    def ukey(self, path):
        return f"{self.info(path)['size']} {self.modified(path)}"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.setenv("PVT_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(paths, "_is_missing", lambda package: package == "tensorflow")
    monkeypatch.setattr(Bucket, "store", {})
    monkeypatch.setattr(Bucket, "pseudo_dirs", [""])
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "s3", Bucket)  # pyright: ignore
    backend.fsspec_backend._get_filesystem.cache_clear()
    places._of_bucket.cache_clear()
    yield Bucket()
    backend.fsspec_backend._get_filesystem.cache_clear()


def put(bucket, name, tmp_path, value):
    write_safetensors(tmp_path / "w.safetensors", {"head.weight": np.full((2, 2), value, np.float32)})
    bucket.pipe_file(name, (tmp_path / "w.safetensors").read_bytes())


def test_a_file_and_a_folder(bucket, tmp_path):
    put(bucket, "/mine/a/model.safetensors", tmp_path, 1)
    bucket.pipe_file("/mine/a/config.json", b'{"image_size": 64}')
    bucket.pipe_file("/mine/a/optimizer.bin", b"large")
    found = read_checkpoint("s3://mine/a")
    assert found.described == "s3://mine/a" and found.image_size == (64, 64)
    assert found.tensors["head.weight"].tolist() == [[1, 1], [1, 1]]
    kept = cache_folder() / "buckets" / "s3" / "mine" / "a"
    assert sorted(path.name for path in kept.iterdir() if path.name[0] != ".") == ["config.json", "model.safetensors"]
    # A file is asked for once in a process, and then only where it has changed.
    put(bucket, "/mine/a/model.safetensors", tmp_path, 2)
    assert read_checkpoint("s3://mine/a").tensors["head.weight"][0, 0] == 1
    places._of_bucket.cache_clear()
    assert read_checkpoint("s3://mine/a").tensors["head.weight"][0, 0] == 2
    assert read_checkpoint("s3://mine/a/model.safetensors").described == "s3://mine/a/model.safetensors"


def test_what_is_not_there_is_one_line(bucket, tmp_path):
    put(bucket, "/mine/a/model.safetensors", tmp_path, 1)
    for url, line in {
        "s3://mine/b": "there is no s3://mine/b: check its name",
        "s3://mine/": "no weights in s3://mine: it has neither checkpoints of a run nor model.safetensors",
        "s3://yours/a": "the weights s3://yours/a: there is no bucket s3://yours, or it is not yours: check its name",
    }.items():
        with pytest.raises(UserError) as error:
            read_checkpoint(url)
        assert str(error.value) == line
