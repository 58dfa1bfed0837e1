"""Plots of measurements."""

from itertools import pairwise

import pytest

from pvt_jax.visualization import plots
from pvt_jax.visualization.plots import Line


@pytest.mark.parametrize(
    "title", ["Short", "Activations\n" + "Semantic FPN on ViT and PVT of equal MACs, 1,000 steps. " * 3]
)
def test_a_title_fits_into_the_picture(title):
    figure, axes = plots._axes(title, ("x", "y"))
    figure.draw_without_rendering()
    shown = figure._suptitle.get_window_extent()
    assert shown.y0 >= axes.get_window_extent().y1
    assert shown.x0 >= 0 and shown.x1 <= figure.bbox.width and shown.y1 <= figure.bbox.height
    assert figure.get_suptitle().split() == title.split()


@pytest.mark.parametrize(
    "names",
    [
        ["token", "mean", "max", "pyramid", "matching", "bag_of_words", "matching_sift"],
        ["base", "deeper", "wider"],
        ["none", "overlapping", "overlapping+depthwise", "overlapping+depthwise+linear", "depthwise_alone"],
        [f"pvt_v2_{side}x{side}" for side in range(10, 34)],
    ],
)
def test_names_of_rows_do_not_overlap(names, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_finished", lambda figure, axes, names: drawn.append((figure, axes)) or b"")
    plots.dots({name: [1.0, 2.0] for name in names}, "title", "label")
    figure, axes = drawn[0]
    figure.draw_without_rendering()
    labels = axes.get_yticklabels()
    assert [label.get_text() for label in labels] == names
    boxes = [label.get_window_extent() for label in labels]
    # The first one stands on top.
    assert all(one.y0 > other.y1 for one, other in pairwise(boxes))
    assert all(box.x0 >= 0 for box in boxes)


def drawn_lines(shown, monkeypatch, log=True, fits=()):
    drawn = []
    monkeypatch.setattr(plots, "_finished", lambda figure, axes, names: drawn.append((figure, axes)) or b"")
    plots.lines(shown, "title", ("x", "y"), log, fits)
    return drawn[0]


def line(name, mean, spread=0.0):
    return Line(name, (1, 10, 100), mean, [y - spread for y in mean], [y + spread for y in mean])


@pytest.mark.parametrize(
    ("highest", "labels"),
    [(0.5, ["0.05", "0.1", "0.2", "0.5"]), (3000, ["0.1", "1", "10", "100", "1,000"])],
)
def test_logarithmic_axes_have_numbers(highest, labels, monkeypatch):
    figure, axes = drawn_lines([line("a", (0.05, 0.1, highest))], monkeypatch)
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    found = [label.get_text() for label in axes.get_yticklabels() if low <= label.get_position()[1] <= high]
    assert found == labels


def test_legends_have_what_is_drawn(monkeypatch):
    shown = [line("a", (1.0, 2.0, 3.0)), line("nothing", (0.0, 0.0, 0.0)), line("b", (2.0, 3.0, 4.0), 0.5)]
    _, axes = drawn_lines(shown, monkeypatch, fits=(lambda x: x, None, None))
    handles, names = axes.get_legend_handles_labels()
    assert sorted(names) == ["a", "b", "fitted power"]
    has_bars = {name: getattr(handle, "has_yerr", None) for name, handle in zip(names, handles, strict=True)}
    assert (has_bars["a"], has_bars["b"]) == (False, True)
    assert sorted(drawn_lines(shown, monkeypatch, log=False)[1].get_legend_handles_labels()[1]) == ["a", "b", "nothing"]
