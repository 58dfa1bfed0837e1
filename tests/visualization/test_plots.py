"""Plots of measurements."""

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
