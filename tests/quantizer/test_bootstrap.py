"""Bounds: the same each time, finite always, and as often right as they promise."""

import math

import numpy as np
import pytest

from saffron_quantizer.evaluation.bootstrap import ratio_bounds, resamples_for


def draw(generator, units):
    """Divergences of conversations: skewed, of several lengths; their mean by token is exp(-2.5 + 0.5^2 / 2)."""
    tokens = np.exp(generator.normal(5, 0.8, units)).round() + 1
    return np.exp(generator.normal(-2.5, 0.5, units)) * tokens, tokens


def test_the_same_sums_have_the_same_bounds():
    sums, tokens = draw(np.random.default_rng(0), 60)
    assert ratio_bounds(sums, tokens, level=0.95) == ratio_bounds(sums, tokens, level=0.95)


def test_the_value_is_weighted_by_tokens():
    assert ratio_bounds(np.array([1.0, 9.0]), np.array([1.0, 3.0]), level=0.95).value == 2.5


def test_bounds_lie_on_both_sides_and_a_higher_level_lies_further_out():
    sums, tokens = draw(np.random.default_rng(0), 60)
    low, high = (ratio_bounds(sums, tokens, level=level) for level in (0.95, 0.999))
    assert high.lower < low.lower < low.value < low.upper < high.upper


def test_an_upper_bound_of_what_is_skewed_lies_further_off_than_the_lower():
    sums, tokens = draw(np.random.default_rng(0), 60)
    bounds = ratio_bounds(sums, tokens, level=0.95)
    assert bounds.upper - bounds.value > bounds.value - bounds.lower


NO_SPREAD = {
    "one conversation": ([3.0], [2.0], 1.5),
    "conversations that all say the same": ([1.5, 3.0, 0.3], [1.0, 2.0, 0.2], 1.5),
    "no divergence at all": ([0.0, 0.0], [1.0, 2.0], 0.0),
}


@pytest.mark.parametrize(("sums", "tokens", "value"), NO_SPREAD.values(), ids=NO_SPREAD.keys())
def test_without_spread_the_bounds_are_the_value(sums, tokens, value):
    bounds = ratio_bounds(np.array(sums), np.array(tokens), level=0.95)
    assert (bounds.lower, bounds.upper) == (bounds.value, bounds.value)
    assert math.isclose(bounds.value, value)


def test_one_odd_conversation_among_many_keeps_the_bounds_finite_and_apart():
    # A third of the resamples lack the odd one and have no spread of their own.
    agreement = np.full(60, 10.0)
    agreement[7] = 5.0
    bounds = ratio_bounds(agreement, np.full(60, 10.0), level=0.95)
    assert 0.9 < bounds.lower < bounds.value < bounds.upper < 1.05


def test_small_deviations_from_a_large_value_are_not_lost():
    tokens = np.full(60, 100.0)
    deviations, _ = draw(np.random.default_rng(0), 60)
    near = ratio_bounds(deviations, tokens, level=0.95)
    far = ratio_bounds(deviations + 1e6 * tokens, tokens, level=0.95)
    assert math.isclose(far.upper - far.value, near.upper - near.value, rel_tol=1e-6)


def test_two_conversations_have_finite_bounds():
    bounds = ratio_bounds(np.array([1.0, 2.0]), np.array([1.0, 1.0]), level=0.95)
    assert all(map(math.isfinite, (bounds.lower, bounds.value, bounds.upper)))


def test_a_bound_far_out_has_resamples_beyond_it():
    assert [resamples_for(level) for level in (0.95, 0.999, 0.9999)] == [10_000, 20_000, 200_000]


@pytest.mark.timeout(300)
def test_bounds_hold_nearly_as_often_as_they_promise():
    generator = np.random.default_rng(7)
    true = math.exp(-2.5 + 0.5**2 / 2)
    runs = 200
    found = [ratio_bounds(*draw(generator, 60), level=0.95) for _ in range(runs)]
    held = [sum(bounds.lower <= true for bounds in found), sum(true <= bounds.upper for bounds in found)]
    # 0.95 of 200 is 190, with a standard deviation of 3.1. Skew costs the upper bound about 0.01 at 60 conversations,
    # which is 2; four deviations below that is 176. A bound that always holds would lie too far out.
    assert all(176 <= count <= 199 for count in held)
