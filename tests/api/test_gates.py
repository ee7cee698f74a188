"""The gates' verdicts, as a table: a figure, its bounds, the limit, and what must be said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saffron_api.gates import MIN_UNITS, Judgement, judge
from saffron_api.quantized_model import FigureStatus, Gates, LowerLimit, UpperLimit, Verdict
from saffron_api.results import Figure, FigureName

PPL, KL = FigureName.PERPLEXITY_RATIO, FigureName.KL_DIVERGENCE
TOP, BYTES = FigureName.TOP_TOKEN_AGREEMENT, FigureName.CHECKPOINT_BYTES_RATIO
PASS, FAIL, UNSURE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE

PPL_GATE = Gates(perplexity_ratio=UpperLimit(max=1.05))
TOP_GATE = Gates(top_token_agreement=LowerLimit(min=0.88))
BYTES_GATE = Gates(checkpoint_bytes_ratio=UpperLimit(max=0.6))


def figure(name: FigureName, lower: float, value: float, upper: float) -> Figure:
    return Figure(name=name, value=value, lower=lower, upper=upper)


def judged(of: Figure, limit: float | None, verdict: Verdict | None) -> FigureStatus:
    return FigureStatus(name=of.name, value=of.value, lower=of.lower, upper=of.upper, limit=limit, verdict=verdict)


GOOD_PPL = figure(PPL, 1.01, 1.02, 1.03)
BAD_PPL = figure(PPL, 1.06, 1.07, 1.08)
WIDE_PPL = figure(PPL, 1.01, 1.03, 1.07)
GOOD_BYTES = figure(BYTES, 0.5, 0.5, 0.5)

ONE_GATE = {
    "an upper bound below the maximum passes": (figure(PPL, 1.01, 1.02, 1.03), PPL_GATE, 60, PASS),
    "an upper bound at the maximum passes": (figure(PPL, 1.01, 1.02, 1.05), PPL_GATE, 60, PASS),
    "a maximum between value and upper bound is inconclusive": (WIDE_PPL, PPL_GATE, 60, UNSURE),
    "a maximum between lower bound and value is inconclusive": (figure(PPL, 1.04, 1.06, 1.08), PPL_GATE, 60, UNSURE),
    "a lower bound at the maximum is inconclusive": (figure(PPL, 1.05, 1.06, 1.08), PPL_GATE, 60, UNSURE),
    "a lower bound above the maximum fails": (BAD_PPL, PPL_GATE, 60, FAIL),
    "a lower bound above the minimum passes": (figure(TOP, 0.9, 0.92, 0.94), TOP_GATE, 60, PASS),
    "a lower bound at the minimum passes": (figure(TOP, 0.88, 0.92, 0.94), TOP_GATE, 60, PASS),
    "a minimum inside the bounds is inconclusive": (figure(TOP, 0.86, 0.89, 0.92), TOP_GATE, 60, UNSURE),
    "an upper bound at the minimum is inconclusive": (figure(TOP, 0.8, 0.86, 0.88), TOP_GATE, 60, UNSURE),
    "an upper bound below the minimum fails": (figure(TOP, 0.8, 0.82, 0.84), TOP_GATE, 60, FAIL),
    "29 conversations are inconclusive however good the bounds": (GOOD_PPL, PPL_GATE, MIN_UNITS - 1, UNSURE),
    "29 conversations are inconclusive however bad the bounds": (BAD_PPL, PPL_GATE, MIN_UNITS - 1, UNSURE),
    "30 conversations are enough to pass": (GOOD_PPL, PPL_GATE, MIN_UNITS, PASS),
    "30 conversations are enough to fail": (BAD_PPL, PPL_GATE, MIN_UNITS, FAIL),
    "the size is exact and passes with no conversation": (GOOD_BYTES, BYTES_GATE, 0, PASS),
    "the size is exact and fails with no conversation": (figure(BYTES, 0.7, 0.7, 0.7), BYTES_GATE, 0, FAIL),
}


@pytest.mark.parametrize(("measured", "gates", "units", "expected"), ONE_GATE.values(), ids=ONE_GATE.keys())
def test_one_gate(measured: Figure, gates: Gates, units: int, expected: Verdict) -> None:
    judgement = judge([measured], gates, units)
    assert (judgement.verdict, judgement.figures[0].verdict) == (expected, expected)


BOTH = Gates(perplexity_ratio=UpperLimit(max=1.05), checkpoint_bytes_ratio=UpperLimit(max=0.6))
SEVERAL = {
    "a figure without a gate is shown and not judged": (
        [GOOD_PPL, GOOD_BYTES],
        PPL_GATE,
        Judgement(PASS, (judged(GOOD_PPL, 1.05, PASS), judged(GOOD_BYTES, None, None)), None),
    ),
    "all gates pass": (
        [GOOD_PPL, GOOD_BYTES],
        BOTH,
        Judgement(PASS, (judged(GOOD_PPL, 1.05, PASS), judged(GOOD_BYTES, 0.6, PASS)), None),
    ),
    "one gate that fails outweighs one that passes": (
        [BAD_PPL, GOOD_BYTES],
        BOTH,
        Judgement(FAIL, (judged(BAD_PPL, 1.05, FAIL), judged(GOOD_BYTES, 0.6, PASS)), None),
    ),
    "one gate that is inconclusive outweighs one that passes": (
        [WIDE_PPL, GOOD_BYTES],
        BOTH,
        Judgement(UNSURE, (judged(WIDE_PPL, 1.05, UNSURE), judged(GOOD_BYTES, 0.6, PASS)), 240),
    ),
    "a gate whose figure is missing is inconclusive": (
        [GOOD_BYTES],
        BOTH,
        Judgement(UNSURE, (judged(GOOD_BYTES, 0.6, PASS),), None),
    ),
}


@pytest.mark.parametrize(("figures", "gates", "expected"), SEVERAL.values(), ids=SEVERAL.keys())
def test_several_gates(figures: list[Figure], gates: Gates, expected: Judgement) -> None:
    assert judge(figures, gates, 60) == expected


def test_a_failed_gate_outweighs_a_missing_figure() -> None:
    too_big = figure(BYTES, 0.7, 0.7, 0.7)
    assert judge([too_big], BOTH, 0).verdict is FAIL


NEEDED = {
    "a bound twice as far off as the limit needs four times the conversations": (
        figure(PPL, 1.0, 1.03, 1.07), 60, 240,
    ),
    "a value beyond the limit needs what makes it fail": (figure(PPL, 1.01, 1.07, 1.2), 60, 540),
    "too few conversations with good bounds need 30": (GOOD_PPL, 20, MIN_UNITS),
    "a value at the limit is settled by no number": (figure(PPL, 1.0, 1.05, 1.1), 60, None),
    "no conversation tells nothing": (GOOD_PPL, 0, None),
}  # fmt: skip


@pytest.mark.parametrize(("measured", "units", "expected"), NEEDED.values(), ids=NEEDED.keys())
def test_the_conversations_that_would_be_needed(measured: Figure, units: int, expected: int | None) -> None:
    assert judge([measured], PPL_GATE, units).units_needed == expected


@given(
    bounds=st.tuples(*[st.floats(0.5, 2)] * 3).map(sorted),
    limit=st.floats(1, 2),
    looser=st.floats(0, 1),
    units=st.integers(0, 100),
)
def test_a_looser_limit_never_gives_a_worse_verdict(
    bounds: list[float], limit: float, looser: float, units: int
) -> None:
    rank = {FAIL: 0, UNSURE: 1, PASS: 2}
    tight = judge([figure(PPL, *bounds)], Gates(perplexity_ratio=UpperLimit(max=limit)), units)
    loose = judge([figure(PPL, *bounds)], Gates(perplexity_ratio=UpperLimit(max=limit + looser)), units)
    assert rank[loose.verdict] >= rank[tight.verdict]
