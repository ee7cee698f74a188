"""What is known of a candidate before anything is made of it: Inspect predicts its bytes from shapes, exactly."""

from saffron_api.gates import judge
from saffron_api.results import Figure, FigureName, InspectResult
from saffron_api.spec import Candidate, Gates
from saffron_api.status import CandidateState, CandidateStatus, Verdict

TOO_LARGE = "TooLarge"
"""The reason of a candidate whose size, known from shapes, misses its gate."""

TENSOR_PARALLEL_SIZES = (1, 2, 4, 8)
"""Cards that are tried. What a number of them can share, half as many can."""


def predicted_bytes(candidate: Candidate, inspected: InspectResult) -> int | None:
    """A candidate's bytes as Inspect predicts them, or None where it could not."""
    return next((each.bytes for each in inspected.predicted if each.name == candidate.name), None)


def impossible(candidate: Candidate, inspected: InspectResult) -> CandidateStatus | None:
    """What is shown of a candidate that can't be made of this model; None where it can."""
    failure = next((each.failure for each in inspected.predicted if each.name == candidate.name), None)
    if failure is None:
        return None
    return CandidateStatus(
        name=candidate.name, state=CandidateState.FAILED, reason=failure.reason.value, message=failure.message
    )


def too_parallel(candidate: Candidate, inspected: InspectResult, cards: int) -> int | None:
    """The cards that can serve a candidate together, if that is known and a server has more.

    Args:
        candidate: of the request.
        inspected: of its model.
        cards: of the server. One that is no power of two is not judged, and one beyond `TENSOR_PARALLEL_SIZES` as
            the last of them.
    """
    most = next((each.tensor_parallel for each in inspected.predicted if each.name == candidate.name), None)
    tried = min(cards, TENSOR_PARALLEL_SIZES[-1]) if cards.bit_count() == 1 else 1
    return most if most is not None and most < tried else None


def too_large(gates: Gates, candidate: Candidate, inspected: InspectResult) -> CandidateStatus | None:
    """What is shown of a candidate whose exact size misses its gate; None where it keeps it or nothing is known."""
    limit = gates.checkpoint_bytes_ratio
    size = predicted_bytes(candidate, inspected)
    if limit is None or size is None or inspected.bytes == 0:
        return None
    ratio = size / inspected.bytes
    if ratio <= limit.max:
        return None
    figure = Figure(name=FigureName.CHECKPOINT_BYTES_RATIO, value=ratio, lower=ratio, upper=ratio)
    return CandidateStatus(
        name=candidate.name,
        state=CandidateState.DONE,
        reason=TOO_LARGE,
        message=f"Its tensors have {ratio:.3f} of the original's bytes, and checkpointBytesRatio allows {limit.max:g}; "
        "it was not made.",
        bytes=size,
        verdict=Verdict.FAIL,
        figures=list(judge([figure], gates, units=0).figures),
    )
