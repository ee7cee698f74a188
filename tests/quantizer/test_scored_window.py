"""At most so many tokens are scored, and of every conversation some."""

from hypothesis import given
from hypothesis import strategies as st

from saffron_quantizer.data.sequences import TokenSequence
from saffron_quantizer.evaluation.window import limit_scored


def sequence(length, start=1):
    return TokenSequence(tuple(range(start + length)), (start, start + length), f"c{length}")


def test_short_sequences_keep_all_and_long_ones_share_the_rest():
    limited = limit_scored([sequence(2), sequence(50), sequence(9), sequence(50)], most=31)
    assert [each.scored for each in limited] == [2, 10, 9, 10]


def test_what_follows_the_range_is_cut_off():
    answer = TokenSequence((1, 2, 3, 4, 5), (2, 4), "c")
    assert limit_scored([answer]) == [TokenSequence((1, 2, 3, 4), (2, 4), "c")]


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=20), most=st.integers(1, 200))
def test_the_limit_holds_and_one_token_more_each_would_break_it(lengths, most):
    limited = [each.scored for each in limit_scored([sequence(length) for length in lengths], most)]
    kept = lengths[:most]
    assert len(limited) == len(kept)
    assert sum(limited) <= most
    assert min(limited) >= 1
    if limited != kept:
        assert sum(min(length, max(limited) + 1) for length in kept) > most
