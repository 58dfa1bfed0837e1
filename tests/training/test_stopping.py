"""Early stopping: when evaluations bring nothing better, also over interruptions."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvt_jax.training.stopping import EarlyStopping
from tests.helpers.command import arguments, records, run_here
from tests.helpers.runs import saved_steps


def write(folder, values):
    lines = [json.dumps({"step": 1, "split": "train", "loss": 2.0})]
    lines += [json.dumps({"step": step, "split": "eval", "top1": value}) for step, value in values.items()]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 99, "spl']))


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.integers(0, 4), min_size=1, max_size=12), patience=st.integers(1, 4), data=st.data())
def test_it_ends_where_it_must(tmp_path_factory, values, patience, data):
    folder = tmp_path_factory.mktemp("run")
    since = [n - values.index(max(values[: n + 1])) for n in range(len(values))]
    ends = next((n for n, count in enumerate(since) if count >= patience), None)
    rule, stopped = EarlyStopping("top1", patience, folder, 0), None
    interrupted = data.draw(st.integers(0, len(values)))
    for n, value in enumerate(values):
        if n == interrupted:
            # What was written after the step at which it goes on does not count.
            write(folder, {10 * (k + 1): one for k, one in enumerate(values)})
            rule = EarlyStopping("top1", patience, folder, 10 * n)
            assert rule.is_over == (ends is not None and ends < n)
        rule.add(10 * (n + 1), {"top1": float(value), "loss": 0.0})
        if rule.is_over and stopped is None:
            stopped = n
    assert stopped == ends if interrupted == 0 or ends is None or ends >= interrupted else stopped is not None


def test_the_reason(tmp_path):
    write(tmp_path, {10: 50.0, 20: None, 30: 50.0})
    rule = EarlyStopping("top1", 2, tmp_path, 30)
    assert rule.is_over and rule.reason == (
        "stopped early after step 30: in 2 evaluations top1 was not above the 50 of step 10 "
        "(early_stopping.patience=2); with a larger one the same command goes on"
    )
    assert not EarlyStopping("top1", 3, tmp_path, 30).is_over and not EarlyStopping("top1", 0, tmp_path, 30).is_over


def test_a_run(tmp_path):
    """With a learning rate of next to nothing no evaluation is better than the first."""
    flags = arguments(
        tmp_path / "run",
        steps="9",
        evaluation__every_steps="2",
        early_stopping__patience="2",
        optimizer__learning_rate="1e-12",
        optimizer__warmup_learning_rate="0",
        optimizer__final_learning_rate="0",
        optimizer__weight_decay="0",
    )
    out, err = run_here(flags)
    assert out.startswith("done: step 6 ") and "stopped early after step 6: in 2 evaluations top1 was not above" in err
    assert [record["step"] for record in records(tmp_path / "run", "eval")] == [2, 4, 6]
    assert saved_steps(tmp_path / "run")[-1] == 6
    # With more patience the run goes on, and counts from where it was.
    out, err = run_here([*flags, "--config.early_stopping.patience=3"])
    assert out.startswith("done: step 8 ") and "resuming after step 6" in err and "stopped early after step 8" in err


@pytest.mark.parametrize("text", ["-1", "0.5"])
def test_refused(tmp_path, text):
    _, err = run_here(arguments(tmp_path, early_stopping__patience=text), code=2)
    assert f"early_stopping.patience must be a whole number of at least 0, but is {text}" in err
