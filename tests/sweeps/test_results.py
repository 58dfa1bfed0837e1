"""results.jsonl: order, replacement, several writers, damage."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from pvt_jax.errors import UserError
from pvt_jax.sweeps import Sweep, Train, results

SWEEP = Sweep("t", "small", [Train("b", "digits"), Train("a", "digits")])


def record(arm="a", seed=0, value=1.0, scale="small", **more):
    return {"scale": scale, "arm": arm, "seed": seed, "command": "c", "values": {"top1": value}, **more}


def written(file):
    return [(r["scale"], r["arm"], r["seed"], r["values"]["top1"]) for r in results.read(file)]


def test_records_stand_in_the_order_of_the_arms_and_replace_their_own(tmp_path):
    file = tmp_path / "new" / "results.jsonl"
    given = [record("a", 1), record(scale="large"), record("gone"), record("a", 0), record("b", 2), record("a", 1, 5.0)]
    for one in given:
        results.add(file, one, SWEEP)
    small = [("small", "b", 2, 1.0), ("small", "a", 0, 1.0), ("small", "a", 1, 5.0), ("small", "gone", 0, 1.0)]
    assert written(file) == [*small, ("large", "a", 0, 1.0)]
    # What is no longer an arm stays in the file, and out of the tables; so do looks.
    results.add(file, record("a", 1000, look=0, rate=0.1), SWEEP)
    assert [(r["arm"], r["seed"]) for r in results.counted(results.read(file), SWEEP)] == [("b", 2), ("a", 0), ("a", 1)]


def _add(folder, seed):
    results.add(folder / "results.jsonl", record("a", seed), SWEEP)


def test_several_writers_lose_nothing(tmp_path):
    # A lock of a file is of the one who opened it, whichever process that is in.
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: _add(tmp_path, seed), range(8)))
    assert written(tmp_path / "results.jsonl") == [("small", "a", seed, 1.0) for seed in range(8)]


@pytest.mark.parametrize(
    "line", ["{", "[]", "3", json.dumps({"scale": "small", "arm": "a", "seed": 0, "command": "c"})]
)
def test_a_damaged_line_is_named(tmp_path, line):
    file = tmp_path / "results.jsonl"
    file.write_text(json.dumps(record()) + "\n" + line + "\n")
    with pytest.raises(UserError, match=r"results.jsonl is damaged in line 2 .*remove that line"):
        results.read(file)


def test_values_have_dots_in_their_names():
    nested = {"macs": 3, "memory": {"total": 5}, "all": [1, 2.5], "parts": [{"a": 1}], "name": "x"}
    flat = results.flat(nested)
    assert flat == {"macs": 3, "memory.total": 5, "all": [1, 2.5], "name": "x"}
    one = {"values": flat, "seconds": 2.0}
    assert results.number_at(one, "values.memory.total") == 5.0 and results.number_at(one, "seconds") == 2.0
    assert results.number_at(one, "values.name") is None and results.at(one, "facts.none") is None
