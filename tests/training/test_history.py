"""What the files of a run tell of it, without its program."""

import pytest

from pvt_jax.errors import UserError
from pvt_jax.training import history
from tests.helpers.workdirs import LINES, make_run


def test_the_numbers_of_a_run(tmp_path):
    run = history.read(make_run(tmp_path / "run", model={"name": "pvt_v2_b0"}))
    assert (run.model, run.head, run.best_metric, run.step) == ("pvt_v2_b0", "", "top1", 20)
    # Two epochs of 100 // 8 whole batches.
    assert run.total_steps == 24
    top1, loss = run.curve("eval", "top1"), run.curve("train", "loss")
    assert (top1.best, top1.last) == ((10, 70.0), 65.5)
    assert loss == history.Curve((2, 4, 11), (3.0, 2.0, 1.5)) and loss.last == 1.5
    assert run.curve("eval", "AP") == history.Curve((), ()) and run.curve("eval", "AP").best is None
    assert run.images_per_second == 16.0
    # 2, 2, 2 and 5 steps of 8 images; the first line has no rate.
    assert run.training_seconds == 16 / 16 + 16 / 8 + 16 / 16 + 40 / 32
    assert run.unread == ()


@pytest.mark.parametrize(
    ("chosen", "records", "total"),
    [({"steps": 50}, None, 50), ({"epochs": 3.0}, None, None), ({"epochs": 0.5}, 4, 1), ({"epochs": 2.5}, 17, 5)],
)
def test_the_length_of_a_run(tmp_path, chosen, records, total):
    assert history.read(make_run(tmp_path / "run", records=records, **chosen)).total_steps == total


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_each_task_has_its_metric(tmp_path, task):
    lines = [{"step": 3, "split": "eval", "AP": 1.0, "miou": 2.0}]
    run = history.read(make_run(tmp_path / "run", lines, task=task, head={"name": "detr"}))
    assert run.head == "detr"
    assert run.curve("eval", run.best_metric).best == (3, {"detection": 1.0, "segmentation": 2.0}[task])


@pytest.mark.parametrize("rest", ['{"step": 21, "spl', "{", '{"step": 21}', "[" * 100_000, "\n\n", "\0\0\xff"])
def test_a_line_cut_short_is_passed_over(tmp_path, rest):
    folder = make_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a", encoding="latin-1") as file:
        file.write(rest)
    run = history.read(folder)
    assert run.lines == tuple(LINES) and run.unread == ()


def test_a_damaged_line_is_counted(tmp_path):
    folder = make_run(tmp_path / "run")
    texts = (folder / "metrics.jsonl").read_text().splitlines()
    texts[1], texts[4] = texts[1][:9], '{"step": Infinity, "split": "eval"}'
    (folder / "metrics.jsonl").write_text("\n".join(texts))
    run = history.read(folder)
    assert run.unread == (2, 5) and len(run.lines) == len(LINES) - 2


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("metrics.jsonl", "", "has no metrics yet: the first are written after log_every_steps steps$"),
        ("metrics.jsonl", None, "has no metrics yet"),
        ("config.json", None, "no config.json in .*run: this is not the --workdir of a run$"),
        ("config.json", "{", "cannot read .*config.json: "),
        ("config.json", "\xff", "cannot read .*config.json: "),
        ("config.json", "[1]", r"config.json is not the config of a training run \(TypeError: .*: give its workdir$"),
        ("config.json", '{"task": "classification"}', r"not the config of a training run \(KeyError: 'batch_size'\)"),
        ("data.json", "{}", r"data.json is damaged \(KeyError: "),
    ],
)
def test_what_is_no_run_is_told(tmp_path, name, text, line):
    folder = make_run(tmp_path / "run")
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=line):
        history.read(folder)


def test_runs_are_found_by_any_of_their_names(tmp_path):
    one, two = make_run(tmp_path / "runs" / "b"), make_run(tmp_path / "runs" / "more" / "a")
    (one / "checkpoints" / "5").mkdir(parents=True)
    (one / "checkpoints" / "5" / "metrics.jsonl").write_text("")
    assert history.find(tmp_path / "runs") == [one, two]
    for place in (one, one / "metrics.jsonl", one / "config.json"):
        assert history.find(place) == [one]
    (tmp_path / "notes.txt").write_text("")
    assert history.find(tmp_path / "notes.txt") == history.find(one / "checkpoints" / "none") == []
