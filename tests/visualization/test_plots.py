"""Plots of measurements."""

import pytest

from pvt_jax.visualization import plots


@pytest.mark.parametrize("title", ["Short", f"{'wide MACs ' * 12}\n{'narrow lilli ' * 15}"])
def test_a_title_fits_into_the_picture(title):
    figure, axes = plots._axes(title, ("x", "y"))
    figure.draw_without_rendering()
    shown = axes.title.get_window_extent()
    assert 0 <= shown.x0 and shown.x1 <= figure.bbox.width and shown.y1 <= figure.bbox.height
    assert axes.title.get_text().split() == title.split()
