"""From a request to a selected checkpoint, in the operator's order and by its rules, with no cluster.

Every stage finds what an earlier run finished, so the same request, started again after whatever ended it, goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_api.prediction import impossible, too_large
from saffron_api.quantized_model import (
    Candidate,
    CandidateState,
    CandidateStatus,
    FigureStatus,
    SelectedStatus,
    Verdict,
)
from saffron_api.results import InspectResult, QuantizeResult, Stage, StageResult
from saffron_api.selection import select
from saffron_quantizer.atomic import PRIVATE_FILE, write_file
from saffron_quantizer.local.order import Order
from saffron_quantizer.report import Report, finished_report, judged, to_json

Do = Callable[[Order], StageResult]
Tell = Callable[[str], None]

_LONGEST = 1024
"""Characters of a message; a person reads no more."""


@dataclass(frozen=True)
class Outcome:
    """What became of a request.

    Attributes:
        candidates: one for each that was asked for, in that order.
        reports: of those that were measured, judged, in that order.
        selected: the one to serve; None where none passed.
        folder: where its checkpoint lies.
    """

    candidates: tuple[CandidateStatus, ...]
    reports: tuple[Report, ...]
    selected: SelectedStatus | None
    folder: Path | None

    @property
    def inconclusive(self) -> bool:
        """None passed, and for at least one the data did not suffice to say."""
        return self.selected is None and any(each.verdict is Verdict.INCONCLUSIVE for each in self.candidates)


def run(first: Order, do: Do, tell: Tell) -> Outcome:
    """Do everything that a request asks for and choose. One bad candidate never stops the others.

    Args:
        first: the order to inspect the model.
        do: does a piece of work.
        tell: is told what begins and how a candidate ended.

    Raises:
        StageError: of a stage that all candidates need.
    """
    spec, places = first.spec, first.places
    tell("inspect the model")
    inspected = do(first)
    if not isinstance(inspected, InspectResult):
        raise TypeError("Inspect told something else")
    shared = replace(first, model_digest=inspected.model_digest)
    left_out = {
        each.name: impossible(each, inspected) or too_large(spec.gates, each, inspected) for each in spec.candidates
    }
    if not all(left_out.values()):
        tell("draw the samples")
        do(replace(shared, stage=Stage.SAMPLE))
        tell("measure the original")
        do(replace(shared, stage=Stage.BASELINE))
    statuses, reports = [], []
    for number, candidate in enumerate(spec.candidates, start=1):
        tell(f"candidate {number} of {len(spec.candidates)}: {candidate.name}")
        status = left_out[candidate.name]
        if status is None:
            status, report = _candidate(replace(shared, candidate=candidate), candidate, do)
            reports += [report] if report is not None else []
        tell(ending(status))
        statuses.append(status)
    selected = select(spec, statuses)
    folder = None if selected is None else places.checkpoints / selected.checkpoint_digest
    return Outcome(tuple(statuses), tuple(reports), selected, folder)


def _candidate(order: Order, candidate: Candidate, do: Do) -> tuple[CandidateStatus, Report | None]:
    """Make, measure and judge a candidate."""
    status = CandidateStatus(name=candidate.name, key=order.quantize_key, state=CandidateState.DONE)
    try:
        made = do(replace(order, stage=Stage.QUANTIZE))
        if not isinstance(made, QuantizeResult):
            raise TypeError("Quantize told something else")
        status = status.model_copy(update={"checkpoint_digest": made.checkpoint_digest, "bytes": made.bytes})
        order = replace(order, stage=Stage.EVALUATE, checkpoint_digest=made.checkpoint_digest)
        do(order)
        report = _judged(order, candidate)
    except StageError as error:
        failed = {
            "state": CandidateState.FAILED,
            "verdict": Verdict.ERROR,
            "reason": error.failure.reason.value,
            "message": str(error)[:_LONGEST],
        }
        return status.model_copy(update=failed), None
    figures = [
        FigureStatus(
            name=row.name, value=row.value, lower=row.lower, upper=row.upper, limit=row.limit, verdict=row.verdict
        )
        for row in report.gates
    ]
    return status.model_copy(update={"verdict": report.verdict, "figures": figures}), report


def _judged(order: Order, candidate: Candidate) -> Report:
    """The report that Evaluate wrote, under the request's gates and the candidate's name; it is written again so."""
    path = order.places.report(order.evaluate_key)
    measured = finished_report(path)
    if measured is None:
        raise StageError(Failure(reason=FailureReason.INPUT_CHANGED, subject=subject_of(path)))
    report = judged(measured.model_copy(update={"name": candidate.name}), order.spec.gates)
    write_file(path, to_json(report).encode(), mode=PRIVATE_FILE)
    return report


def ending(status: CandidateStatus) -> str:
    """How a candidate ended, in a line."""
    told = f"{status.name}: {status.verdict or status.state}"
    if status.message is not None:
        return f"{told}: {status.message}"
    missed = [
        f"{row.name} {row.value:.4g} [{row.lower:.4g}, {row.upper:.4g}] against {row.limit:g}"
        for row in status.figures
        if row.limit is not None and row.verdict is not Verdict.PASS
    ]
    return f"{told}, {', '.join(missed)}" if missed else told
