"""metrics.jsonl: what a line holds, and what a resume keeps of it; pictures."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pvt_jax.errors import UserError
from pvt_jax.training.writer import Display, MetricsWriter, write_results


def lines(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def write(workdir, start_step: int, steps: range) -> None:
    writer = MetricsWriter(workdir, start_step)
    for step in steps:
        writer.write(step, "train", {"loss": 1.0 / step, "learning_rate": 1e-3})
    writer.close()


def test_a_line_is_step_and_split_and_the_numbers(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    writer.write(3, "eval", {"top1": 97.5, "top5": 100.0})
    # It is on disk before the writer is closed.
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 3, "split": "eval", "top1": 97.5, "top5": 100.0}\n'
    writer.close()
    assert any((tmp_path / "tensorboard").iterdir())


def test_what_is_not_a_number_is_null(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    writer.write(1, "train", {"loss": 1.5, "grad_norm": float("nan"), "other": float("inf")})
    writer.close()
    assert lines(tmp_path) == [{"step": 1, "split": "train", "loss": 1.5, "grad_norm": None, "other": None}]


def test_a_resume_drops_what_it_will_write_again(tmp_path):
    write(tmp_path, 0, range(1, 8))
    write(tmp_path, 4, range(5, 7))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_a_run_that_starts_anew_keeps_nothing(tmp_path):
    write(tmp_path, 0, range(1, 4))
    write(tmp_path, 0, range(1, 2))
    assert [line["step"] for line in lines(tmp_path)] == [1]


@pytest.mark.parametrize("rest", ['{"step": 3, "spl', '{"step": 3', "{", '{"split": "train"}', "\n\n"])
def test_a_line_cut_short_is_dropped(tmp_path, rest):
    write(tmp_path, 0, range(1, 3))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(rest)
    write(tmp_path, 2, range(3, 5))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_the_display_reports_a_line_off_a_terminal(capsys):
    display = Display(total_steps=10, start_step=0, batch_size=617, enabled=True)
    display.say("hello [b]world")
    display.advance(2)
    display.report(6, {"loss": 0.25, "images_per_second": 1234.0, "data_wait": 6.5, "learning_rate": 1e-3})
    display.close()
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first == "hello [b]world"
    assert second == ("step 6/10  loss 0.2500  1,234 images/s  data wait 6 %  learning rate 1.00e-03  ETA 0:00:02")


def test_the_display_says_days(capsys):
    display = Display(total_steps=1_000_006, start_step=0, batch_size=1, enabled=True)
    display.report(6, {"loss": 0.25, "images_per_second": 5.0, "data_wait": 0.0, "learning_rate": 1e-3})
    assert capsys.readouterr().err.endswith("ETA 2 days, 7:33:20\n")


def test_a_silent_display_says_nothing(capsys):
    display = Display(total_steps=10, start_step=0, batch_size=617, enabled=False)
    display.say("hello")
    display.report(6, {"loss": 0.25, "images_per_second": 1234.0, "data_wait": 6.5, "learning_rate": 1e-3})
    display.close()
    assert capsys.readouterr() == ("", "")


def test_pictures_are_files_and_a_resume_writes_them_again(tmp_path):
    """Names of steps and pictures; what a killed run left at the same step is replaced."""
    rng = np.random.default_rng(0)
    for start in (0, 4):
        pictures = [(f"{i:06d}", rng.integers(0, 256, (5 + i, 7, 3), dtype=np.uint8)) for i in range(2)]
        writer = MetricsWriter(tmp_path, start)
        writer.write_pictures(6, pictures)
        writer.close()
        files = sorted((tmp_path / "pictures" / "6").iterdir())
        assert [file.name for file in files] == ["000000.png", "000001.png"]
        for file, (_, picture) in zip(files, pictures, strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(file)), picture)


def test_without_pictures_there_is_no_folder(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    writer.write_pictures(6, [])
    writer.close()
    assert not (tmp_path / "pictures").exists()


def test_pictures_that_cannot_be_written_are_told(tmp_path):
    (tmp_path / "pictures").write_text("in the way")
    writer = MetricsWriter(tmp_path, 0)
    with pytest.raises(UserError, match=f"cannot write metrics to {tmp_path}: .* run the same command again"):
        writer.write_pictures(6, [("000000", np.zeros((4, 4, 3), np.uint8))])
    writer.close()


def test_results_replace_those_of_an_earlier_evaluation(tmp_path):
    write_results(tmp_path, {"detections.json": b"[1, 2]", "ema_detections.json": b"[3]"})
    # What an evaluation beside the run is just writing.
    other = tmp_path / "results" / "detections.json.1.tmp"
    other.write_bytes(b"[1,")
    write_results(tmp_path, {"detections.json": b"[]"})
    found = {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    assert found == {"detections.json": b"[]", "ema_detections.json": b"[3]", other.name: b"[1,"}


def test_without_results_there_is_no_folder(tmp_path):
    write_results(tmp_path / "run", {})
    assert not (tmp_path / "run").exists()


def test_results_that_cannot_be_written_are_told(tmp_path, monkeypatch):
    """An earlier file is still whole."""
    write_results(tmp_path, {"detections.json": b"[]"})

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError) as error:
        write_results(tmp_path, {"detections.json": b"[1]"})
    assert str(error.value).startswith(f"cannot write results to {tmp_path / 'results'}: no space left on device. ")
    assert (tmp_path / "results" / "detections.json").read_text() == "[]"
