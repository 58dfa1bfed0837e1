"""The share of the time in which devices wait for data, on a clock that the test moves, and when it is told."""

from concurrent.futures import Future

import jax.numpy as jnp
import pytest

from pvt_jax import config as config_lib
from pvt_jax import machine
from pvt_jax.training import pace


class Clock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def batches(self, seconds):
        """Each takes so long."""
        while True:
            self.now += seconds
            yield {}


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(pace, "time", found)
    return found


def handed_over(counter, ends=None):
    """A step that ends at this time, or not at all."""
    counter._last = Future()
    if ends is not None:
        counter._last.set_result(ends)


@pytest.mark.parametrize(
    ("ended_before_wait", "share"),
    [
        (5.0, 75.0),  # Idle since before the wait of three of four seconds: all of it counts.
        (-1.0, 50.0),  # They worked for the first second of it.
        (None, 0.0),  # They still work: the host ran ahead.
    ],
)
def test_devices_wait_only_when_they_have_nothing_to_do(clock, ended_before_wait, share):
    counter = pace.Pace(batch_size=8)
    counter.begin(10)
    clock.now += 1
    handed_over(counter, None if ended_before_wait is None else clock.now - ended_before_wait)
    counter.next_batch(clock.batches(3))
    assert counter.line(12) == {"images_per_second": 2 * 8 / 4, "data_wait": share}
    # It counts from line to line.
    clock.now += 2
    assert counter.line(13) == {"images_per_second": 4.0, "data_wait": 0.0}
    counter.close()


def test_the_first_batch_and_what_lies_before_the_beginning_do_not_count(clock):
    counter = pace.Pace(batch_size=8)
    counter.next_batch(clock.batches(50))
    handed_over(counter, clock.now)
    counter.next_batch(clock.batches(50))
    counter.begin_once(1)
    clock.now += 4
    counter.begin_once(2)
    assert counter.line(2) == {"images_per_second": 2.0, "data_wait": 0.0}
    counter.close()


def test_the_end_of_a_real_step_is_noticed():
    counter = pace.Pace(batch_size=8)
    counter.begin(0)
    counter.handed_over({"loss": jnp.ones(3) * 2})
    assert counter._last is not None and counter._last.result(60) <= pace.time.monotonic()
    counter.next_batch(iter([{"image": 1}]))
    assert 0 <= counter.line(1)["data_wait"] <= 100
    counter.close()


def told(clock, waits):
    """What is told after lines of ten seconds each, with these seconds of waiting."""
    counter, found = pace.Pace(batch_size=8), []
    counter.begin(0)
    for step, wait in enumerate(waits, start=1):
        clock.now += 10 - wait
        handed_over(counter, clock.now)
        counter.next_batch(clock.batches(wait))
        counter.line(step)
        found.append(counter.trouble())
    counter.close()
    return found


def test_it_is_told_once_from_a_fifth_of_half_a_minute_on(clock):
    assert told(clock, [9, 9]) == [None, None]
    assert told(clock, [1, 1, 4]) == [None, None, pytest.approx(20.0)]
    assert told(clock, [1, 1, 3.9]) == [None] * 3
    # The first half minute is over: what counts is the next.
    assert told(clock, [0, 0, 0, 6, 6, 6, 6, 6, 6]) == [None] * 5 + [pytest.approx(60.0)] + [None] * 3


def test_the_note_says_what_helps_here(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 6)
    config = config_lib.read(config_lib.resolve({"data.workers": 2}))
    line = pace.slow_data(43.4, config)
    assert line.startswith("note: data is what limits this run: the devices waited for it 43 % of the time")
    assert "20 % on" in line and "--config.data.workers=6" in line and "(now 2)" in line and "\n" not in line
    assert "--config.transform.reduced_decoding=True, in a new run" in line
    monkeypatch.setattr(machine, "cores", lambda: 2)
    config = config_lib.read(config_lib.resolve({"data.workers": 2, "transform.reduced_decoding": True}))
    line = pace.slow_data(43.4, config)
    assert "workers" not in line and "reduced_decoding" not in line and "transform.fast_resize=True" in line
