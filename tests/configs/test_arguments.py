"""What stands after the colon of a config: a model or a folder, and words behind commas."""

import pytest

from configs.common import FOLDER, MODEL, parse_argument
from pvt_jax.errors import UserError


def of_folder(argument: str) -> tuple[str, list[str]]:
    return parse_argument("configs/x.py", argument, FOLDER, "FOLDER", str.isdecimal, "the number of classes")


def test_a_folder_and_a_number(tmp_path, monkeypatch):
    (tmp_path / "maps,5").mkdir()
    for argument, first, words in (
        (f"{tmp_path}/,11", f"{tmp_path}/", ["11"]),
        (f"{tmp_path}, 3", str(tmp_path), ["3"]),
        (f"{tmp_path}/maps,5", f"{tmp_path}/maps,5", []),
        (f"{tmp_path}/maps,5,4", f"{tmp_path}/maps,5", ["4"]),
        (f"{tmp_path}/maps,x", f"{tmp_path}/maps,x", []),
        (f"{tmp_path}/maps,²", f"{tmp_path}/maps,²", []),
    ):
        assert of_folder(argument) == (first, words)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert of_folder("~/maps,5") == ("~/maps,5", [])
    with pytest.raises(UserError, match=f"^configs/x.py knows no 'x': after {tmp_path} may stand the number"):
        of_folder(f"{tmp_path},x")


def test_a_model_and_words():
    def of_model(argument: str) -> tuple[str, list[str]]:
        return parse_argument("configs/x.py", argument, MODEL, "pvt_tiny", ("1x", "640").__contains__, "1x, 640")

    assert of_model("pvt_small") == ("pvt_small", [])
    assert of_model("pvt_small,1x, 640") == ("pvt_small", ["1x", "640"])
    with pytest.raises(UserError, match="knows no '2x': after pvt_small may stand 1x, 640, or nothing, as --config"):
        of_model("pvt_small,1x,2x")
    for nothing in ("", ",1x"):
        with pytest.raises(UserError, match="needs a model: give one .* as --config configs/x.py:pvt_tiny$"):
            of_model(nothing)
