"""Plots of measurements."""

from itertools import pairwise

import pytest

from pvt_jax.visualization import plots


@pytest.mark.parametrize(
    "title", ["Short", "Activations\n" + "Semantic FPN on ViT and PVT of equal MACs, 1,000 steps. " * 3]
)
def test_a_title_fits_into_the_picture(title):
    figure, axes = plots._axes(title, ("x", "y"))
    figure.draw_without_rendering()
    shown = axes.title.get_window_extent()
    assert shown.x0 >= 0 and shown.x1 <= figure.bbox.width and shown.y1 <= figure.bbox.height
    assert axes.title.get_text().split() == title.split()


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
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    turned = axes.get_xticklabels()[0].get_rotation() > 0
    assert turned or all(one.x1 < other.x0 for one, other in pairwise(boxes))
    assert turned == (names[0] in ("token", "none", "pvt_v2_10x10"))
