"""Comparisons and fits, against numbers worked out by hand and SciPy's own."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pvt_jax.sweeps.statistics import compare, crossings, fit_power


def test_a_difference_is_of_the_seeds_that_both_have():
    found = compare({0: 3.0, 1: 4.0, 5: 100.0}, {0: 1.0, 1: 1.0, 2: -50.0})
    assert found is not None and found.difference == 2.5
    # Differences 2 and 3: t = 2.5 / (0.7071 / √2) = 5 with one degree of freedom.
    assert found.p == pytest.approx(2 * (0.5 - math.atan(5) / math.pi))
    # Two seeds are that far apart by chance in one case of five.
    assert found.verdict == "too few seeds"


@pytest.mark.parametrize(("shift", "verdict"), [(2.0, "none"), (2.001, "higher"), (-2.0, "none"), (-2.001, "lower")])
def test_a_difference_inside_the_range_is_called_none(shift, verdict):
    found = compare({seed: value + shift for seed, value in enumerate((1.0, 2.0, 3.0))}, {0: 1.0, 1: 2.0, 2: 3.0})
    # Equal differences have no p, however large they are.
    assert found is not None and (found.p, found.verdict) == (None, verdict)


def test_a_difference_as_large_as_the_range_is_called_none_however_it_is_rounded():
    wider, base = (45.40, 46.19, 45.60), (43.75, 44.05, 45.16)
    found = compare(dict(enumerate(wider)), dict(enumerate(base)))
    assert found is not None and found.difference > np.ptp(base) and round(found.difference, 9) == 1.41
    assert found.verdict == "none"


def test_one_seed_decides_nothing():
    found = compare({0: 9.0}, {0: 1.0, 1: 1.0})
    assert found is not None and (found.difference, found.p, found.verdict) == (8.0, None, "too few seeds")
    assert compare({0: 9.0}, {1: 1.0}) is None


@given(st.floats(-4, 4), st.floats(0.1, 10), st.lists(st.floats(1, 1000), min_size=3, max_size=9, unique=True))
def test_a_power_is_found_again(exponent, factor, x):
    if max(x) / min(x) < 1.5:
        return
    fit = fit_power(x, [factor * value**exponent for value in x])
    assert fit is not None
    assert fit.exponent == pytest.approx(exponent, abs=1e-6) and fit.factor == pytest.approx(factor, rel=1e-4)
    assert fit.error < 1e-5 and fit(x[0]) == pytest.approx(factor * x[0] ** exponent, rel=1e-6)


def test_the_standard_error_is_that_of_linear_regression():
    x, y = [1.0, 2.0, 4.0, 8.0, 16.0], [1.1, 3.9, 17.0, 60.0, 270.0]
    fit, oracle = fit_power(x, y), stats.linregress(np.log(x), np.log(y))
    assert fit is not None
    assert (fit.exponent, fit.error) == pytest.approx((oracle[0], oracle[4]))


def test_two_points_leave_no_error_and_one_no_power():
    assert fit_power([3.0, 3.0], [1.0, 2.0]) is None
    fit = fit_power([1.0, 10.0], [1.0, 100.0])
    assert fit is not None and fit.exponent == pytest.approx(2.0) and fit.error == math.inf


def test_curves_cross_where_powers_do():
    x = [10.0, 100.0, 1000.0]
    # x² and 50 x cross at 50, between the first two points.
    squares = [value**2 for value in x]
    assert crossings(x, squares, [50 * value for value in x]) == [(pytest.approx(50.0), True)]
    assert crossings(x, [50 * value for value in x], squares) == [(pytest.approx(50.0), False)]
    assert crossings(x, squares, [5 * value for value in x]) == []


def test_curves_cross_more_than_once_and_where_they_are_equal():
    x = [1.0, 10.0, 100.0, 1000.0]
    up_and_down = crossings(x, [1.0, 4.0, 1.0, 1.0], [2.0] * 4)
    assert up_and_down == [(pytest.approx(math.sqrt(10)), True), (pytest.approx(10 * math.sqrt(10)), False)]
    assert crossings(x, [1.0, 2.0, 3.0, 3.0], [2.0] * 4) == [(pytest.approx(10.0), True)]
    # Equal at two points, they cross at the first.
    assert crossings(x, [1.0, 2.0, 2.0, 3.0], [2.0] * 4) == [(pytest.approx(10.0), True)]
    assert crossings([], [], []) == []
    # They touch, or are the same.
    assert crossings(x, [1.0, 2.0, 1.0, 1.0], [2.0] * 4) == []
    assert crossings(x, [2.0] * 4, [2.0] * 4) == []
