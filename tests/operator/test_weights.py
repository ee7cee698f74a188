"""The canary's size and the share of the requests that it takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saffron_operator.decide.weights import canary_replicas, share

SIZES = [
    # stable, weight, most, replicas, share
    (1, 10, 2, 1, 50),
    (4, 10, 2, 1, 20),
    (4, 50, 2, 2, 33),
    (4, 50, 9, 4, 50),
    (10, 25, 9, 3, 23),
    (10, 99, 99, 10, 50),
    (100, 1, 9, 1, 1),
]


@pytest.mark.parametrize(("stable", "weight", "most", "replicas", "percent"), SIZES)
def test_whole_pods_give_about_the_share(stable: int, weight: int, most: int, replicas: int, percent: int):
    assert canary_replicas(stable, weight, most) == replicas
    assert share(replicas, stable) == percent


@given(st.integers(1, 500), st.integers(1, 99), st.integers(1, 100))
def test_a_canary_has_a_pod_and_never_more_than_the_target_or_the_limit(stable: int, weight: int, most: int):
    replicas = canary_replicas(stable, weight, most)
    assert 1 <= replicas <= min(stable, most)
    assert weight == 99 or replicas <= canary_replicas(stable, weight + 1, most)
