"""Which steps a trace has, what is said of it, and that nothing of it stops a run."""

import gzip
import json
from contextlib import ExitStack

import jax
import pytest

from pvt_jax import config as config_lib
from pvt_jax.errors import UserError
from pvt_jax.training import profiling


def traced_steps(folder) -> list[int]:
    """Numbers of the steps in the newest trace below a workdir's ``profile``, as Perfetto reads it."""
    path = max((folder / "profile" / "plugins" / "profile").glob("*/perfetto_trace.json.gz"))
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return [int(event["args"]["step_num"]) for event in events if event.get("name") == "train"]


def follow(window, folder, start, steps, fail_at=None):
    """What a run from ``start`` on says and does, with steps of one small program."""
    happened = []
    program = jax.jit(lambda x: x * 2)
    profiler = profiling.Profiler(
        window,
        folder,
        start,
        drain=lambda: happened.append("drained"),
        written=lambda: happened.append("written"),
        say=happened.append,
    )
    with ExitStack() as stack:
        stack.callback(profiler.close)
        for number in range(start + 1, steps + 1):
            with profiler.step(number):
                program(1.0).block_until_ready()
                happened.append(number)
                if number == fail_at:
                    break
    return happened


def said(folder, steps):
    return (
        f"traced {steps}: look at it with `xprof --logdir {folder}/profile`, or open perfetto_trace.json.gz in there "
        "at ui.perfetto.dev"
    )


def test_the_trace_has_the_steps_of_the_window_and_whole(tmp_path):
    happened = follow((2, 4), tmp_path, 0, 6)
    assert happened == [1, "drained", 2, 3, 4, "drained", said(tmp_path, "steps 2 to 4"), "written", 5, 6]
    assert traced_steps(tmp_path) == [2, 3, 4]
    # xprof reads this one.
    assert len(list((tmp_path / "profile" / "plugins" / "profile").glob("*/*.xplane.pb"))) == 1


def test_a_run_that_goes_on_traces_what_is_left(tmp_path):
    assert follow((2, 3), tmp_path, 2, 3)[-2:] == [said(tmp_path, "step 3"), "written"]
    assert traced_steps(tmp_path) == [3]


def test_a_run_past_the_window_says_so_and_does_nothing(tmp_path):
    line = "profile_steps=(2, 3) is over: the run goes on after step 3, and nothing is traced"
    assert follow((2, 3), tmp_path, 3, 5) == [line, 4, 5]
    assert not any(tmp_path.iterdir())


def test_without_a_window_nothing_happens(tmp_path):
    assert follow((), tmp_path, 0, 2) == [1, 2]
    assert not any(tmp_path.iterdir())


def test_a_run_that_ends_inside_keeps_what_was_traced(tmp_path):
    assert follow((1, 9), tmp_path, 0, 9, fail_at=2)[-1] == said(tmp_path, "steps 1 to 2")
    assert traced_steps(tmp_path) == [1, 2]


def test_a_trace_of_someone_else_is_left_alone(tmp_path):
    """As where a notebook traces the whole run."""
    with jax.profiler.trace(str(tmp_path / "theirs")):
        line, *steps = [entry for entry in follow((1, 2), tmp_path, 0, 3) if entry not in ("drained", "written")]
        assert steps == [1, 2, 3]
    assert line.startswith("cannot trace steps (Profile has already been started.")
    assert line.endswith("), and the run goes on without a trace")
    assert list((tmp_path / "theirs").rglob("*.xplane.pb"))


def test_a_full_disk_stops_no_run(tmp_path, monkeypatch):
    def full():
        stop()
        raise OSError(28, "No space left on device")

    stop = jax.profiler.stop_trace
    monkeypatch.setattr(jax.profiler, "stop_trace", full)
    happened = follow((1, 1), tmp_path, 0, 2)
    assert happened[3:] == [
        f"cannot write the trace of steps to {tmp_path}/profile (No space left on device), and the run goes on without "
        "a trace",
        "written",
        2,
    ]


def test_the_first_of_several_processes_traces_and_all_wait_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda *_: 4)
    (tmp_path / "first").mkdir()
    first = follow((2, 2), tmp_path / "first", 0, 3)
    assert said(tmp_path / "first", "step 2 of process 0 of 4") in first
    monkeypatch.setattr(jax, "process_index", lambda *_: 3)
    other = follow((2, 2), tmp_path / "other", 0, 3)
    assert other == [entry for entry in first if not str(entry).startswith("traced")]
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("window", [(20,), (20, 25, 30), (25, 20)])
def test_a_window_is_two_steps_in_order(window):
    values = config_lib.resolve({"profile_steps": window})
    with pytest.raises(UserError) as caught:
        config_lib.read(values)
    assert str(caught.value) == (
        f"profile_steps is {window}: give the first and the last step of the trace in this order, as "
        "--config.profile_steps='(20,25)'"
    )


def test_a_window_lies_within_the_run():
    profiling.check_window((), 3)
    profiling.check_window((1, 3), 3)
    with pytest.raises(UserError) as caught:
        profiling.check_window((20, 25), 24)
    assert str(caught.value) == (
        "profile_steps is (20, 25), but the run has only 24 steps: choose two of them, as "
        "--config.profile_steps='(19,24)'"
    )


def test_a_trace_in_a_bucket_is_sent_whole(tmp_path, monkeypatch):
    """Written on this machine first; the bucket here is a folder."""
    sent = {}
    monkeypatch.setattr(profiling.paths, "is_bucket", lambda path: True)
    monkeypatch.setattr(profiling.paths, "write_whole", lambda path, content: sent.update({path: content}))
    monkeypatch.setattr(profiling.tempfile, "mkdtemp", lambda prefix: str(tmp_path / "local"))
    (tmp_path / "local").mkdir()
    assert said(tmp_path / "run", "step 1") in follow((1, 1), tmp_path / "run", 0, 1)
    assert {path.suffix for path in sent} == {".gz", ".pb"} and all(sent.values())
    assert all((tmp_path / "run" / "profile" / "plugins" / "profile") in path.parents for path in sent)
    assert not (tmp_path / "local").exists()
