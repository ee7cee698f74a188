"""Which of the candidates that pass is chosen; and the canary's size and share."""

from typing import Any

import pytest
from deciding import builders
from hypothesis import given
from hypothesis import strategies as st

from saffron_api.quantized_model import CandidateState, CandidateStatus, FigureStatus, Verdict
from saffron_api.results import FigureName
from saffron_operator.decide.selection import select
from saffron_operator.decide.weights import canary_replicas, share


def candidate(name: str, size: int, upper: float, verdict: Verdict = Verdict.PASS) -> CandidateStatus:
    figure = FigureStatus(name=FigureName.KL_DIVERGENCE, value=upper / 2, lower=0.0, upper=upper)
    return CandidateStatus(
        name=name,
        state=CandidateState.DONE,
        checkpoint_digest=builders.hexadecimal(name),
        bytes=size,
        verdict=verdict,
        figures=[figure],
    )


CHOICES: list[tuple[str, str, list[CandidateStatus], str | None]] = [
    ("the fewest bytes", "Smallest", [candidate("a", 900, 0.01), candidate("b", 500, 0.09)], "b"),
    ("within 1 % the better one", "Smallest", [candidate("a", 1000, 0.09), candidate("b", 1010, 0.01)], "b"),
    ("beyond 1 % the smaller one", "Smallest", [candidate("a", 1000, 0.09), candidate("b", 1011, 0.01)], "a"),
    ("of equals the author's first", "Smallest", [candidate("b", 500, 0.05), candidate("a", 500, 0.05)], "b"),
    ("the lowest bound", "BestQuality", [candidate("a", 500, 0.09), candidate("b", 900, 0.01)], "b"),
    ("of equal quality the smaller", "BestQuality", [candidate("a", 900, 0.05), candidate("b", 500, 0.05)], "b"),
    ("never one that fails", "Smallest", [candidate("a", 100, 0.5, Verdict.FAIL), candidate("b", 500, 0.05)], "b"),
    ("never one in doubt", "Smallest", [candidate("a", 100, 0.05, Verdict.INCONCLUSIVE)], None),
    ("none of none", "Smallest", [], None),
]


@pytest.mark.parametrize(("rule", "candidates", "chosen"), [row[1:] for row in CHOICES], ids=[r[0] for r in CHOICES])
def test_the_rule_chooses_among_those_that_pass(rule: str, candidates: list[CandidateStatus], chosen: str | None):
    found = select(builders.spec(selection=rule), candidates)
    assert (found.name if found is not None else None) == chosen


def test_the_selected_checkpoints_place_is_told():
    changes: dict[str, Any] = {
        "storage": {"checkpoints": {"claimName": "store", "path": "a/b"}, "workspace": {"claimName": "work"}}
    }
    found = select(builders.spec(**changes), [candidate("a", 500, 0.05)])
    assert found is not None
    assert found.uri == f"pvc://store/a/b/{builders.hexadecimal('a')}"


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
