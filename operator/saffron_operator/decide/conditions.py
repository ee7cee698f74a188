"""Conditions as kstatus reads them. `Reconciling` and `Stalled` are there only while True, and never both."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from saffron_api.quantized_model import Condition
from saffron_operator import reasons
from saffron_operator.decide.inputs import Kind, Standing

READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"
SAMPLED = "Sampled"
QUANTIZED = "Quantized"
GATES_PASSED = "GatesPassed"
PROMOTED = "Promoted"
QUALITY_HEALTHY = "QualityHealthy"
TARGET_DRIFT = "TargetDrift"


@dataclass(frozen=True)
class Milestone:
    """One condition, before its time is known."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def milestone(kind: str, *, reached: bool, message: str) -> Milestone:
    """Return a milestone that is reached, or not yet."""
    if reached:
        return Milestone(kind, "True", reasons.DONE, message)
    return Milestone(kind, "False", reasons.NOT_YET, message)


def of_standing(standing: Standing) -> tuple[Milestone, ...]:
    """Return Ready, and Reconciling or Stalled where they apply."""
    reason, message = standing.reason, standing.message
    match standing.kind:
        case Kind.READY:
            return (Milestone(READY, "True", reason, message),)
        case Kind.WAITING:
            return (Milestone(READY, "False", reason, message),)
        case Kind.WORKING:
            return (Milestone(READY, "False", reason, message), Milestone(RECONCILING, "True", reason, message))
        case Kind.STALLED:
            return (Milestone(READY, "False", reason, message), Milestone(STALLED, "True", reason, message))


def stamped(
    milestones: tuple[Milestone, ...], before: tuple[Condition, ...], generation: int, now: datetime
) -> list[Condition]:
    """Return conditions with their times: the last transition is when the status, not the reason, changed."""
    old = {condition.type: condition for condition in before}
    return [
        Condition(
            type=each.type,
            status=each.status,
            reason=each.reason,
            message=each.message,
            last_transition_time=old[each.type].last_transition_time
            if each.type in old and old[each.type].status == each.status
            else now,
            observed_generation=generation,
        )
        for each in milestones
    ]
