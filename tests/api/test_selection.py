"""Which of the candidates that pass is chosen."""

import pytest

from saffron_api.keys import digest
from saffron_api.quantized_model import (
    CandidateState,
    CandidateStatus,
    FigureStatus,
    QuantizedModelSpec,
    SelectedStatus,
    Selection,
    Verdict,
)
from saffron_api.results import FigureName
from saffron_api.selection import choose, select


def candidate(name: str, size: int, upper: float, verdict: Verdict = Verdict.PASS) -> CandidateStatus:
    figure = FigureStatus(name=FigureName.KL_DIVERGENCE, value=upper / 2, lower=0.0, upper=upper)
    return CandidateStatus(
        name=name,
        state=CandidateState.DONE,
        checkpoint_digest=digest({"name": name}),
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
    found = choose(Selection(rule), candidates)
    assert (found.name if found is not None else None) == chosen


def test_the_selected_checkpoints_place_is_told():
    storage = {"checkpoints": {"claimName": "store", "path": "a/b"}, "workspace": {"claimName": "work"}}
    spec = QuantizedModelSpec.model_validate(
        {
            "model": {"uri": "pvc://models/qwen"},
            "data": {"source": {"dataset": {"uri": "pvc://data/prompts.jsonl"}}},
            "candidates": [{"name": "a", "method": "RTN", "scheme": "W4A16"}],
            "gates": {"klDivergence": {"max": 0.1}},
            "storage": storage,
        }
    )
    found = select(spec, [candidate("a", 500, 0.05)])
    checkpoint = digest({"name": "a"})
    assert found == SelectedStatus(name="a", checkpoint_digest=checkpoint, uri=f"pvc://store/a/b/{checkpoint}")
    assert select(spec, [candidate("a", 500, 0.05, Verdict.FAIL)]) is None
