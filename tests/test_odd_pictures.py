"""Thirty-four odd pictures; ``python -m tests.helpers.odd_pictures 300`` draws more, and larger ones."""

import os

import numpy as np
import pytest
from PIL import Image

from pvt_jax.data.options import ReadingOptions
from pvt_jax.data.unlabelled import Unlabelled
from pvt_jax.errors import CorruptImageError
from tests.helpers import odd_pictures
from tests.helpers.trained import save_run


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return odd_pictures.write(34, tmp_path_factory.mktemp("odd") / "pictures", large=False)


def test_are_read_as_pillow_reads_them_or_refused(odd):
    assert sum(one.truth is None for one in odd) > 5
    assert list(odd_pictures.check_reading(odd)) == []


@pytest.mark.filterwarnings("ignore")
def test_are_predicted_or_named(odd, tmp_path):
    run = save_run("classification", tmp_path / "run")
    assert list(odd_pictures.check_predict(odd, run.folder, tmp_path / "out")) == []


@pytest.mark.filterwarnings("ignore")
def test_do_not_stop_training_or_browse(odd, tmp_path):
    assert list(odd_pictures.check_training(odd, tmp_path / "data", tmp_path / "workdir")) == []


def test_an_image_without_permission_is_named(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    path.chmod(0)
    tmp_path.chmod(0o700)
    user = os.geteuid()
    if user == 0:  # Root reads all.
        for folder in (tmp_path, *tmp_path.parents):
            if str(folder).startswith(os.environ.get("TMPDIR", "/tmp/pytest")) or folder.name.startswith("pytest"):
                folder.chmod(0o755)
        os.seteuid(65534)
    try:
        source = Unlabelled([str(path)], [str(path)], ReadingOptions())
        with pytest.raises(CorruptImageError, match="Permission denied"):
            source.image(0)
    finally:
        os.seteuid(user)
