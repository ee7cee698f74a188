"""Whole conversations go to disjoint sets, the same for the same input."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_quantizer.data.lines import Chat, Line, Text, Tokens, Turn
from saffron_quantizer.data.split import SetSizes, by_conversation, cut, set_sizes, without_repeats


def line(number, text, conversation=None):
    return Line(number, Text(text), conversation)


SIZES = {
    "a quarter as much again": (512, 512, SetSizes(512, 128, 512)),
    "a quarter that is rounded up": (3, 5, SetSizes(3, 2, 5)),
    "one of each": (1, 1, SetSizes(1, 1, 1)),
}


@pytest.mark.parametrize(("calibration", "evaluation", "expected"), SIZES.values(), ids=SIZES.keys())
def test_the_selection_set_is(calibration, evaluation, expected):
    assert set_sizes(calibration_samples=calibration, evaluation_samples=evaluation) == expected


REPEATS = {
    "a text that comes again": ([line(1, "a"), line(2, "a")], [1]),
    "a text that differs in white space around it": ([line(1, "a"), line(2, " a\n")], [1]),
    "a text of another conversation": ([line(1, "a", "x"), line(2, "a", "y")], [1]),
    "another text": ([line(1, "a"), line(2, "b")], [1, 2]),
    "a chat that comes again": ([Line(n, Chat((Turn("user", "a"),)), None) for n in (1, 2)], [1]),
    "a chat of other roles": (
        [Line(1, Chat((Turn("user", "a"),)), None), Line(2, Chat((Turn("system", "a"),)), None)],
        [1, 2],
    ),
    "a chat whose parts join to the same": (
        [
            Line(1, Chat((Turn("user", "ab"), Turn("user", "c"))), None),
            Line(2, Chat((Turn("user", "a"), Turn("user", "bc"))), None),
        ],
        [1, 2],
    ),
    "tokens that come again": ([Line(n, Tokens((1, 2), (1, 2)), None) for n in (1, 2)], [1]),
}


@pytest.mark.parametrize(("lines", "kept"), REPEATS.values(), ids=REPEATS.keys())
def test_repeats(lines, kept):
    assert [each.number for each in without_repeats(lines)] == kept


def test_a_given_name_never_meets_the_name_of_a_line_without_one():
    unnamed = by_conversation([line(1, "a")], seed=0)
    (name,) = unnamed
    assert len(by_conversation([line(1, "a"), line(2, "b", name), line(3, "c", "line:a")], seed=0)) == 3


TABLES = st.lists(st.tuples(st.text(max_size=3), st.none() | st.sampled_from("pqrstuv")), max_size=40)


@settings(deadline=None)
@given(table=TABLES, seed=st.integers(0, 9), sizes=st.tuples(*[st.integers(0, 5)] * 3))
def test_sets_are_disjoint_whole_and_in_the_order_of_hashes(table, seed, sizes):
    lines = [line(number, text, conversation) for number, (text, conversation) in enumerate(table, start=1)]
    conversations = by_conversation(lines, seed)
    sets = cut(conversations, sizes)
    drawn = [name for each in sets for name in each]
    # Each once, so no conversation lies in two sets, and nothing else than the first in the order of the hashes.
    assert drawn == sorted(conversations)[: sum(sizes)]
    assert all(each[name] == conversations[name] for each in sets for name in each)


def test_another_seed_draws_other_sets():
    lines = [line(number, f"text {number}") for number in range(50)]
    first, second = ([lines[0].number for lines in by_conversation(lines, seed).values()] for seed in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second


def test_a_draw_does_not_favour_the_beginning_of_the_file():
    lines = [line(number, f"text {number}") for number in range(1000)]
    half, _ = cut(by_conversation(lines, 0), (500, 500))
    early = sum(each[0].number < 500 for each in half.values())
    # Hypergeometric: 250 expected with a standard deviation of 7.9; five of them leave one chance in a million.
    assert abs(early - 250) < 5 * 7.9
