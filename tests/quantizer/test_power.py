"""What a number of conversations can show: the margin's definition, its special cases, and how it changes."""

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saffron_api.results import Figure, FigureName
from saffron_quantizer.evaluation.power import smallest_margin

PPL, KL = FigureName.PERPLEXITY_RATIO, FigureName.KL_DIVERGENCE
TOP, BYTES = FigureName.TOP_TOKEN_AGREEMENT, FigureName.CHECKPOINT_BYTES_RATIO
Z95 = NormalDist().inv_cdf(0.95)
# (1.6449 + 0.8416) / 1.6449
WIDENED = 1.51167


def figure(name, lower, value, upper):
    return Figure(name=name, value=value, lower=lower, upper=upper)


MARGINS = {
    "a divergence by its upper bound": (figure(KL, 0.09, 0.10, 0.12), 60, WIDENED * 0.02),
    "an agreement by its lower bound": (figure(TOP, 0.86, 0.90, 0.92), 60, WIDENED * 0.04),
    "a ratio on its logarithm": (figure(PPL, 1.0, 1.0, 1.05), 60, 1.05**WIDENED - 1),
    "a ratio in its own unit": (figure(PPL, 1.9, 2.0, 2.1), 60, 2 * (1.05**WIDENED - 1)),
    "a size, which is counted": (figure(BYTES, 0.5, 0.5, 0.5), 60, 0.0),
    "a size on no conversation": (figure(BYTES, 0.5, 0.5, 0.5), 0, 0.0),
    "too few conversations": (figure(KL, 0.09, 0.10, 0.12), 29, None),
    "a divergence that does not vary": (figure(KL, 0.0, 0.0, 0.0), 60, None),
    "an agreement that varies nowhere but is not whole": (figure(TOP, 0.5, 0.5, 0.5), 60, None),
    "agreement on everything, by the rule of three": (figure(TOP, 1.0, 1.0, 1.0), 60, 0.048703),
    "a ratio so wild that no number holds its margin": (figure(PPL, 1.0, 1e200, 1e304), 60, None),
}


@pytest.mark.parametrize(("measured", "units", "expected"), MARGINS.values(), ids=MARGINS.keys())
def test_the_margin_of(measured, units, expected):
    found = smallest_margin(measured, units=units, level=0.95)
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-4))


def test_a_bound_at_even_odds_tells_no_margin():
    assert smallest_margin(figure(KL, 0.1, 0.1, 0.1), units=60, level=0.5) is None


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_four_of_five_draws_keep_a_limit_at_the_margin(level):
    # Values drawn around a truth with a known standard error, as the even quantiles of their distribution.
    truth, error, z = 0.1, 0.004, NormalDist().inv_cdf(level)
    margin = smallest_margin(figure(KL, 0.0, truth, truth + z * error), units=60, level=level)
    draws = [NormalDist(truth, error).inv_cdf((number + 0.5) / 10_000) for number in range(10_000)]
    kept = sum(value + z * error <= truth + margin for value in draws)
    assert kept / len(draws) == pytest.approx(0.8, abs=1e-3)


@given(st.integers(30, 10_000), st.sampled_from([0.8, 0.95, 0.999]))
def test_if_so_many_differed_some_would_have_shown(units, level):
    share = smallest_margin(figure(TOP, 1.0, 1.0, 1.0), units=units, level=level)
    assert units * math.log1p(-share) == pytest.approx(math.log1p(-level))


@given(value=st.floats(0.01, 10), width=st.floats(1e-6, 10), more=st.floats(1.01, 5))
def test_wider_bounds_never_show_a_smaller_margin(value, width, more):
    for name in (PPL, KL):
        near, far = (
            smallest_margin(figure(name, 0.0, value, value + each), units=60, level=0.95)
            for each in (width, width * more)
        )
        assert near is None or 0 < near < far
