"""Events: what changed with this pass, for people who read `kubectl describe`."""

from saffron_api.quantized_model import Condition
from saffron_operator import reasons
from saffron_operator.decide.conditions import READY
from saffron_operator.decide.obstacles import scaled
from saffron_operator.decide.run import Run
from saffron_operator.decision import Event, EventType
from saffron_operator.observed import Observed, TargetFacts


def transition(before: tuple[Condition, ...], after: list[Condition], *, stalled: bool) -> tuple[Event, ...]:
    """Return the event of a standing whose reason is not the one of the pass before."""
    old = next((each.reason for each in before if each.type == READY), None)
    new = next((each for each in after if each.type == READY), None)
    if new is None or new.reason == old:
        return ()
    return (Event(EventType.WARNING if stalled else EventType.NORMAL, new.reason, new.message),)


def of_run(observed: Observed, run: Run) -> tuple[Event, ...]:
    """Return the events of a run that begins: that it does, and what of the target will be in the way."""
    if not run.begun:
        return ()
    started = Event(EventType.NORMAL, reasons.RUN_STARTED, f"Run {run.status.id} begins.")
    facts = observed.target.facts if observed.target is not None else None
    warnings = facts.warnings if isinstance(facts, TargetFacts) else ()
    unfit = scaled(observed.target) if observed.target is not None else None
    if unfit is not None:
        warnings = (*warnings, unfit[1])
    return (started, *(Event(EventType.WARNING, reasons.TARGET_WARNING, text) for text in warnings))
