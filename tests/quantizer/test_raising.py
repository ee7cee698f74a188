"""Which units are raised, in which order, and how many of them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saffron_api.candidate import Scheme
from saffron_api.quantized_model import Gates
from saffron_api.results import Figure, FigureName
from saffron_quantizer.precision import Precision
from saffron_quantizer.raising import (
    MOST_ROUNDS,
    Level,
    Measured,
    Raise,
    chosen_count,
    first_guess,
    next_count,
    order_of_raises,
    share_that_may_stay,
)

INT4, INT8 = Precision(Scheme.W4A16, 128), Precision(Scheme.W8A8)


def levels(low, middle, *, size=100):
    """A unit's levels by the damage of the first two; int8 takes twice the bytes of int4, the original four times."""
    return [Level(INT4, low, size), Level(INT8, middle, 2 * size), Level(None, 0.0, 4 * size)]


ORDERS = {
    "the most damage a byte comes first": (
        {"a": levels(0.1, 0.0), "b": levels(0.3, 0.0), "c": levels(0.4, 0.0, size=400)},
        10_000,
        [("b", INT8), ("a", INT8), ("c", INT8)],
    ),
    "a unit is raised a second time where that is worth more than another's first": (
        {"a": levels(1.0, 0.5), "b": levels(0.1, 0.05)},
        10_000,
        [("a", INT8), ("a", None), ("b", INT8), ("b", None)],
    ),
    "a level that spares nothing is left out": (
        {"a": levels(0.4, 0.5)},
        10_000,
        [("a", None)],
    ),
    "a level that spares too little for its bytes is left out": (
        {"a": levels(0.4, 0.39)},
        10_000,
        [("a", None)],
    ),
    "what does not fit is passed over for what does": (
        {"a": levels(0.9, 0.1, size=500), "b": levels(0.1, 0.0)},
        300,
        [("b", INT8)],
    ),
    "without room nothing is raised": ({"a": levels(0.9, 0.1)}, 99, []),
    "what does no damage is not raised": ({"a": levels(0.0, 0.0)}, 10_000, []),
    "of equals the first comes first": (
        {"b": levels(0.1, 0.0), "a": levels(0.1, 0.0)},
        100,
        [("b", INT8)],
    ),
}


@pytest.mark.parametrize(("units", "room", "expected"), ORDERS.values(), ids=ORDERS)
def test_raises_are_ordered_by_what_they_spare_a_byte(units, room, expected):
    assert [(each.unit, each.after) for each in order_of_raises(units, room)] == expected


def test_a_raise_tells_what_it_spares_and_costs():
    assert order_of_raises({"a": levels(0.5, 0.125)}, 10_000) == (
        Raise("a", INT4, INT8, 0.375, 100),
        Raise("a", INT8, None, 0.125, 200),
    )


UNITS = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 1000)).map(lambda each: levels(*each[:2], size=each[2])),
    max_size=6,
)


@given(UNITS, st.integers(0, 5000))
def test_all_raises_together_fit_and_each_spares_something_for_its_bytes(units, room):
    raises = order_of_raises(units, room)
    assert sum(each.bytes for each in raises) <= room
    assert all(each.damage > 0 and each.bytes > 0 for each in raises)
    for name, own in units.items():
        steps = [each for each in raises if each.unit == name]
        places = [own[0].precision, *(each.after for each in steps)]
        assert [each.before for each in steps] == places[:-1]


SEARCHES = {
    # name: raises that there are, the guess, the fewest that hold (None: no number does), what is made, what is kept
    "nothing is raised where the limits hold as it is": (9, 1, 0, [0], 0),
    "a right guess is confirmed from below": (20, 4, 4, [0, 4, 2, 3], 4),
    "too high a guess is halved": (20, 8, 1, [0, 8, 4, 2, 1], 1),
    "too low a guess is doubled": (20, 2, 5, [0, 2, 4, 8, 6, 5], 5),
    "the last round tries all rather than miss the limits": (100, 1, 50, [0, 1, 2, 4, 8, 100], 100),
    "where no number will do, all are raised": (3, 1, None, [0, 1, 2, 3], 3),
    "where there is nothing to raise, it is left as it is": (0, 1, None, [0], 0),
    "a guess that is all of them is tried at once": (5, 9, 5, [0, 5, 2, 3, 4], 5),
}


@pytest.mark.parametrize(("total", "guess", "fewest", "made", "kept"), SEARCHES.values(), ids=SEARCHES)
def test_the_search_ends_with_the_fewest_raises_that_it_found_to_hold(total, guess, fewest, made, kept):
    measured = []
    while (count := next_count(measured, total, guess)) is not None:
        measured.append(Measured(count, fewest is not None and count >= fewest))
    assert ([each.raises for each in measured], chosen_count(measured)) == (made, kept)


@given(st.integers(0, 1000), st.integers(1, 1000), st.integers(0, 1100))
def test_the_search_is_bounded_makes_nothing_twice_and_keeps_the_limits_where_any_number_does(total, guess, fewest):
    measured = []
    while (count := next_count(measured, total, guess)) is not None:
        measured.append(Measured(count, count >= fewest))
    counts = [each.raises for each in measured]
    assert len(counts) == len(set(counts)) <= MOST_ROUNDS
    assert all(0 <= each <= total for each in counts)
    assert (chosen_count(measured) >= fewest) == (total >= fewest)


def test_the_search_of_a_candidate_that_holds_with_fewer_raises_and_not_with_more_keeps_the_fewest():
    assert chosen_count([Measured(0, False), Measured(2, True), Measured(4, False)]) == 2


GUESSES = {
    "enough to leave the share": (0.5, 2),
    "all where all of them leave more": (0.05, 3),
    "one at least": (1.0, 1),
}


@pytest.mark.parametrize(("share", "expected"), GUESSES.values(), ids=GUESSES)
def test_the_first_guess_adds_up_what_units_do_alone(share, expected):
    raises = [Raise(name, INT4, INT8, damage, 1) for name, damage in (("a", 0.4), ("b", 0.3), ("c", 0.1))]
    assert first_guess(raises, 1.0, share) == expected


def figure(name, lower, upper):
    return Figure(name=name, value=(lower + upper) / 2, lower=lower, upper=upper)


FIGURES = [
    figure(FigureName.PERPLEXITY_RATIO, 1.1, math.e),
    figure(FigureName.KL_DIVERGENCE, 0.1, 0.2),
    figure(FigureName.TOP_TOKEN_AGREEMENT, 0.8, 0.9),
]
SHARES = {
    "a divergence of twice the limit is to be halved": ({"klDivergence": {"max": 0.1}}, 0.5),
    "the log of a perplexity ratio goes with the divergence": ({"perplexityRatio": {"max": math.exp(0.25)}}, 0.25),
    "disagreement goes with its root": ({"topTokenAgreement": {"min": 0.9}}, 0.25),
    "the tightest limit counts": ({"klDivergence": {"max": 0.1}, "perplexityRatio": {"max": math.exp(0.25)}}, 0.25),
    "what is kept already leaves all": ({"klDivergence": {"max": 0.3}}, 1.0),
    "bytes are no damage": ({"checkpointBytesRatio": {"max": 0.1}}, 1.0),
    "a limit of 1 leaves nothing": ({"perplexityRatio": {"max": 1.0}}, 0.0),
}


@pytest.mark.parametrize(("gates", "expected"), SHARES.values(), ids=SHARES)
def test_limits_leave_a_share_of_the_damage(gates, expected):
    assert share_that_may_stay(FIGURES, Gates.model_validate(gates)) == pytest.approx(expected)
