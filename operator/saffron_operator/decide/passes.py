"""One pass: put together what the parts decide, and write the status of it."""

from dataclasses import replace
from datetime import datetime

from saffron_api.quantized_model import CandidateState, QuantizedModelSpec, QuantizedModelStatus, RunStatus
from saffron_operator import reasons
from saffron_operator.decide.conditions import READY, Milestone, of_standing, stamped
from saffron_operator.decide.events import of_run, transition
from saffron_operator.decide.inputs import Inputs, Kind, Standing, clip
from saffron_operator.decide.memory import current_memory
from saffron_operator.decide.obstacles import obstacle
from saffron_operator.decide.rollout import roll_out
from saffron_operator.decide.run import again, current
from saffron_operator.decide.scene import RolloutMemory, Scene, Step
from saffron_operator.decide.stages import Progress, progress, stop
from saffron_operator.decide.summary import milestones
from saffron_operator.decision import Action, Decision, DeleteCanary
from saffron_operator.names import ABORT_ANNOTATION
from saffron_operator.observed import Observed, SpecError, TargetFacts

_UNSETTLED = frozenset({CandidateState.PENDING, CandidateState.RUNNING})


def decide(observed: Observed, now: datetime) -> Decision:
    """Return what to write and to do.

    Level-based: the answer depends on what is, never on which event came or on what an earlier pass did or failed to
    do.

    Args:
        observed: Everything that is known.
        now: The time, with its zone.
    """
    now = now.replace(microsecond=0)  # times are written down in seconds, and must be read back as the same
    if observed.meta.deleting:
        return Decision(status=None)  # Jobs and canary go with their owner; what is served stays
    memory = RolloutMemory(observed.memory.rollout, observed.memory.promoted, observed.memory.rejected)
    spec = observed.spec
    if isinstance(spec, SpecError):
        message = clip(f"The spec can't be read: {spec.message}. Correct it.")
        standing = Standing(Kind.STALLED, reasons.SPEC_INVALID, message, "Stalled")
        return replace(_decision(observed, now, observed.memory.run, None, Step(standing, memory)), idle=True)
    if spec.suspend:
        return _suspended(observed, spec, memory, now)
    blocked = obstacle(observed, spec)
    if blocked is not None:
        return _blocked(observed, spec, blocked, memory, now)
    return _proceeding(observed, spec, memory, now)


def _proceeding(observed: Observed, spec: QuantizedModelSpec, memory: RolloutMemory, now: datetime) -> Decision:
    """Return the decision where nothing is in the way."""
    run = current(observed, spec, now, may_retry=not memory.undoes)
    memory = current_memory(observed, memory, run, now)
    inputs = Inputs(observed, spec, run.status, now)
    found = progress(inputs)
    if run.status.model_digest not in (None, found.run.model_digest):
        # The folder holds another model than the run began with: no approval of this run is about that one.
        run = again(observed, run.status, now, retried=False)
        inputs = Inputs(observed, spec, run.status, now)
        found = progress(inputs)
    found = _ended(inputs, found)
    step = _rolled_out(inputs, found, memory)
    actions = _distinct((*found.actions, *step.actions))
    step = replace(step, actions=actions, events=(*of_run(observed, run), *step.events))
    return _decision(observed, now, found.run, found, step)


def _ended(inputs: Inputs, found: Progress) -> Progress:
    """Return the progress of a run that a person may have ended before a checkpoint was selected."""
    if found.standing is None or found.standing.kind is not Kind.WORKING or not inputs.asked(ABORT_ANNOTATION):
        return found
    standing = inputs.stalled(reasons.ABORTED, "A person ended the run before a checkpoint was selected.")
    return replace(found, standing=standing, actions=tuple(stop(inputs)), revisit=None)


def _rolled_out(inputs: Inputs, found: Progress, memory: RolloutMemory) -> Step:
    """Return what the pass does beyond Jobs."""
    settings, target = inputs.spec.rollout, inputs.observed.target
    if settings is None or target is None or not isinstance(target.facts, TargetFacts):
        # Without a rollout a selected checkpoint is all that was asked for.
        return Step(found.standing or _checkpoint_ready(found), replace(memory, rollout=None))
    scene = Scene(inputs, settings, target, target.facts, inputs.observed.canary, memory)
    unsettled = {each.name for each in found.candidates if each.state in _UNSETTLED}
    return roll_out(scene, found.standing, found.selected, unsettled)


def _checkpoint_ready(found: Progress) -> Standing:
    selected = found.selected
    what = f"{selected.name} is at {selected.uri}." if selected is not None else ""
    return Standing(Kind.READY, reasons.CHECKPOINT_READY, what, "Ready")


def _blocked(
    observed: Observed, spec: QuantizedModelSpec, standing: Standing, memory: RolloutMemory, now: datetime
) -> Decision:
    """Return the decision where the target can't be used: nothing new, and no canary beside it.

    What is half done to the target itself is left as it is, since the target can't be read or is not ours.
    """
    actions: tuple[Action, ...] = ()
    if not memory.changes_target and not memory.undoes:
        memory = replace(memory, rollout=memory.rollout if _finished(memory) else None)
        canary = observed.canary
        if canary is not None and canary.owner_uid == observed.meta.uid and not canary.deleting:
            actions = (DeleteCanary(canary.name, canary.uid),)
    found = _shown(observed, spec, now)
    decision = _decision(observed, now, observed.memory.run, found, Step(standing, memory, actions))
    return replace(decision, idle=True)


def _finished(memory: RolloutMemory) -> bool:
    """Return whether the roll-out that is remembered is the one of what is served."""
    if memory.rollout is None or memory.promoted is None:
        return False
    return memory.rollout.checkpoint_digest == memory.promoted.checkpoint_digest


def _suspended(observed: Observed, spec: QuantizedModelSpec, memory: RolloutMemory, now: datetime) -> Decision:
    """Return the decision of a resource that is suspended: look on, and do nothing. Ready stays what it was."""
    found = _shown(observed, spec, now)
    ready = next((each for each in observed.memory.conditions if each.type == READY), None)
    kept = (
        Milestone(READY, ready.status, ready.reason, ready.message)
        if ready is not None
        else Milestone(READY, "False", reasons.SUSPENDED, "spec.suspend is true; nothing was begun.")
    )
    told = (kept, *milestones(observed, found, memory))
    conditions = stamped(told, observed.memory.conditions, observed.meta.generation, now)
    status = _status(observed, observed.memory.run, found, memory).model_copy(
        update={"phase": "Suspended", "conditions": conditions}
    )
    return Decision(status, events=transition(observed.memory.conditions, conditions, stalled=False), idle=True)


def _shown(observed: Observed, spec: QuantizedModelSpec, now: datetime) -> Progress | None:
    """Return how far the run is, only to show it; None before the first one."""
    run = observed.memory.run
    return None if run is None else progress(Inputs(observed, spec, run, now))


def _distinct(actions: tuple[Action, ...]) -> tuple[Action, ...]:
    """Return the actions without those that two parts ask for alike."""
    return tuple({(type(action), action.name): action for action in actions}.values())


def _decision(observed: Observed, now: datetime, run: RunStatus | None, found: Progress | None, step: Step) -> Decision:
    """Return the decision of a pass whose standing is known."""
    standing = _as_far_as_taken(observed, step.standing)
    told = (*of_standing(standing), *milestones(observed, found, step.memory))
    conditions = stamped(told, observed.memory.conditions, observed.meta.generation, now)
    status = _status(observed, run, found, step.memory).model_copy(
        update={"phase": standing.phase, "conditions": conditions}
    )
    stalled = standing.kind is Kind.STALLED
    times = [time for time in (found.revisit if found else None, step.revisit) if time is not None]
    return Decision(
        status,
        step.actions,
        (*step.events, *transition(observed.memory.conditions, conditions, stalled=stalled)),
        requeue_after=max(0.0, (min(times) - now).total_seconds()) if times else None,
        idle=step.idle,
    )


def _as_far_as_taken(observed: Observed, standing: Standing) -> Standing:
    """Return how things stand, where the API server refuses what would be done next."""
    if observed.refused is None or standing.kind is not Kind.WORKING:
        return standing
    message = f"The API server refuses what comes next ({observed.refused}). Mend that; Saffron tries again by itself."
    return Standing(Kind.STALLED, reasons.REFUSED, clip(message), "Stalled")


def _status(
    observed: Observed, run: RunStatus | None, found: Progress | None, memory: RolloutMemory
) -> QuantizedModelStatus:
    """Return the status without phase and conditions."""
    return QuantizedModelStatus(
        observed_generation=observed.meta.generation,
        run=run,
        samples=found.samples if found is not None else None,
        candidates=list(found.candidates) if found is not None else [],
        selected=found.selected if found is not None else None,
        rollout=memory.rollout,
        promoted=memory.promoted,
        rejected=list(memory.rejected),
    )
