"""Tables and figures from records alone."""

import io

import numpy as np
import pytest
from PIL import Image

from pvt_jax.errors import UserError
from pvt_jax.sweeps import Column, Curves, Dots, Lines, Measure, Sweep, Train, report
from pvt_jax.visualization import plots


def record(arm, seed, values, facts=None, **more):
    origin = {"machine": "m, 2 cores", "versions": {"jax": "1"}, "revision": "abc", "date": "2026-01-02"}
    return {
        "scale": "s",
        "arm": arm,
        "seed": seed,
        "command": "c",
        "facts": facts or {},
        "values": values,
        **origin,
        **more,
    }


TRAINED = Sweep(
    "Digits at 32²",
    "s",
    [Train("base", "digits"), Train("up", "digits"), Train("later", "digits", facts={"kind": "l"})],
    metric="top1",
    columns=[Column("parameters, M", "values.parameters", ".1f", 1e-6), Column("kind", "facts.kind")],
    figures=[Dots("top1.png", "Top-1", "values.top1", "top-1, %"), Curves("loss.png", "Loss", "train_loss", "loss")],
)
RECORDS = [
    record(
        arm,
        seed,
        {"top1": top1, "parameters": 2_000_000},
        {"kind": arm[0]},
        curves={"train_loss": [[1, 2], [3.0, seed]]},
    )
    for arm, tops in {"base": (90.0, 91.0, 92.0), "up": (93.0, 94.5, 94.5)}.items()
    for seed, top1 in enumerate(tops)
]


def test_the_table_has_every_value_and_what_it_means():
    text = report.text(TRAINED, RECORDS, TRAINED.figures)
    assert text.splitlines()[:10] == [
        "**Digits at 32²**",
        "",
        "| arm | parameters, M | kind | top1 by seed | mean | range | against base | p | difference |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |",
        "| base | 2.0 | b | 90.00, 91.00, 92.00 | 91.00 | 2.00 | – | – | – |",
        "| up | 2.0 | u | 93.00, 94.50, 94.50 | 94.00 | 1.50 | +3.00 | 0.009 | higher |",
        "| later | – | l | – | – | – | – | – | – |",
        "",
        "On m, 2 cores; jax 1; revision abc; 2026-01-02.",
        "",
    ]
    assert text.endswith("![Loss](loss.png)") and "top1.png" in text


def test_figures_are_drawn_and_the_same_again(tmp_path):
    (tmp_path / "README.md").write_text(
        "# Question\n\nWords.\n\n<!-- results: s -->\nold\n<!-- end of results: s -->\n\nMore.\n"
    )
    files = report.write(tmp_path, TRAINED, RECORDS)
    assert [file.name for file in files] == ["top1.png", "loss.png", "README.md"]
    before = [file.read_bytes() for file in files]
    assert np.asarray(Image.open(io.BytesIO(before[0]))).std() > 10
    text = before[2].decode()
    assert text.startswith("# Question\n\nWords.\n\n<!-- results: s -->\n**Digits") and "old" not in text
    assert text.endswith("<!-- end of results: s -->\n\nMore.\n")
    report.write(tmp_path, TRAINED, RECORDS)
    assert [file.read_bytes() for file in files] == before


def test_a_readme_without_a_place_gets_one_and_one_without_an_end_is_refused():
    assert report.placed("# A\n", "s", "x") == "# A\n\n<!-- results: s -->\nx\n<!-- end of results: s -->\n"
    with pytest.raises(UserError, match="without <!-- end of results: s -->"):
        report.placed("<!-- results: s -->\nx", "s", "y")


def test_what_is_not_measured_has_its_facts_and_no_picture(tmp_path):
    assert [file.name for file in report.write(tmp_path, TRAINED, [])] == ["README.md"]
    text = (tmp_path / "README.md").read_text()
    assert "| later | – | l | – | – | – | – | – | – |" in text and "Not measured yet." in text


def test_exponents_and_crossings_become_a_table():
    lines = Lines(
        "macs.png",
        "MACs",
        "facts.side",
        "values.macs",
        "image side",
        "GMACs",
        "facts.model",
        1e-9,
        log=True,
        fit_from=100,
    )
    sides = (10, 100, 200, 400)
    points = [("square", side, side**2) for side in sides] + [("line", side, 150 * side) for side in sides]
    arms = [Measure(f"{name}{side}", "x.py") for name, side, _ in points]
    points += [("nothing", side, 0) for side in sides]
    points += [("bump", side, macs) for side, macs in zip(sides, (1, 100, 10**5, 10), strict=True)]
    records = [
        record(f"{name}{side}", None, {"macs": macs}, {"side": side, "model": name}) for name, side, macs in points
    ]
    sweep = Sweep("t", "s", arms, figures=[lines])
    assert lines.table(sweep, records) == [
        "MACs: exponent of image side, fitted from 100 on",
        "",
        "| model | exponent | standard error | points |",
        "|---|---:|---:|---:|",
        "| square | 2.000 | 0.000 | 3 |",
        "| line | 1.000 | 0.000 | 3 |",
        "| bump | -1.661 | 6.713 | 3 |",
        "",
        "- square rises above line at 150 (image side).",
        "- square falls below bump at 178 and rises above it at 212 (image side).",
        "- line falls below bump at 175 and rises above it at 218 (image side).",
    ]
    assert Image.open(io.BytesIO(lines.draw(sweep, records) or b"")).size[0] > 500
    assert lines.draw(sweep, []) is None
    # A picture of nothing that logarithms can show.
    nothing = [one for one in records if one["facts"]["model"] == "nothing"]
    assert lines.draw(sweep, nothing)


def test_equal_seeds_have_no_range():
    """numpy's mean of three times 44.7 is above it."""
    records = [record("base", seed, {"top1": 44.7}, {"side": 1, "model": "a"}) for seed in range(3)]
    assert float(np.mean([44.7] * 3)) > 44.7
    lines = Lines("x.png", "t", "facts.side", "values.top1", "x", "y", "facts.model")
    assert lines._points(records) == {"a": [(1, 44.7, 44.7, 44.7)]}
    assert lines.draw(TRAINED, records)


def test_smooth_curves_are_means_of_neighbours_seed_by_seed(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "curves", lambda lines, title, labels: drawn.append((lines, labels)) or b"")
    steps = [10, 20, 30, 40]
    losses = [[4.0, 1.0, 1.0, 4.0], [8.0, 2.0, 2.0, 2.0]]
    records = [record("base", seed, {}, curves={"train_loss": [steps, loss]}) for seed, loss in enumerate(losses)]
    Curves("l.png", "Loss", "train_loss", "loss", smooth=3).draw(TRAINED, records)
    ((line,), labels) = drawn[0]
    assert labels == ("step", "loss, mean of 3 points")
    assert line.x == (10, 20, 30, 40)
    # Seeds: 2.5, 2, 2, 2.5 and 5, 4, 2, 2.
    assert (line.low, line.high) == ((2.5, 2.0, 2.0, 2.0), (5.0, 4.0, 2.0, 2.5))
    assert line.mean == (3.75, 3.0, 2.0, 2.25)


def test_rows_may_have_baselines_of_their_own():
    arms = [Train("base", "digits"), Train("up", "digits"), Train("later", "digits", against="up")]
    records = RECORDS + [record("later", seed, {"top1": 80.0 + seed}) for seed in range(3)]
    sweep = Sweep("t", "s", arms, metric="top1")
    assert report.text(sweep, records).splitlines()[2:7] == [
        "| arm | top1 by seed | mean | range | against | by | p | difference |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | --- |",
        "| base | 90.00, 91.00, 92.00 | 91.00 | 2.00 | – | – | – | – |",
        "| up | 93.00, 94.50, 94.50 | 94.00 | 1.50 | base | +3.00 | 0.009 | higher |",
        "| later | 80.00, 81.00, 82.00 | 81.00 | 2.00 | up | -13.00 | <0.001 | lower |",
    ]
