"""What Inspect's predictions mean for a candidate."""

import pytest

from saffron_api.prediction import too_parallel
from saffron_api.quantized_model import Candidate
from saffron_api.results import InspectResult, PredictedSize

CANDIDATE = Candidate.model_validate({"name": "int4", "method": "RTN", "scheme": "W4A16"})
CARDS: dict[str, tuple[int | None, int, int | None]] = {
    "one card": (1, 1, None),
    "as many as can share it": (4, 4, None),
    "fewer": (4, 2, None),
    "more": (4, 8, 4),
    "more than are tried, of what as many as are tried can share": (8, 16, None),
    "more than are tried, of what fewer can share": (4, 16, 4),
    "no power of two, which is not judged": (2, 6, None),
    "a size that is not known": (None, 8, None),
}


@pytest.mark.parametrize(("most", "cards", "expected"), CARDS.values(), ids=CARDS)
def test_a_server_with(most: int | None, cards: int, expected: int | None) -> None:
    predicted = [PredictedSize(name="other", tensor_parallel=1), PredictedSize(name="int4", tensor_parallel=most)]
    inspected = InspectResult(
        model_digest="a" * 64, architecture="A", parameters=1, bytes=1, predicted=predicted, isa="AVX2"
    )
    assert too_parallel(CANDIDATE, inspected, cards) == expected
