"""What keeps a QuantizedModel from its target. Looked at first: no Job is worth it while its target can't be used.

Each rule is one function: it returns the reason and the sentence, or None. Each obstacle ends by itself once its cause
is gone.
"""

from collections.abc import Callable

from saffron_api.quantized_model import QuantizedModelSpec
from saffron_operator import reasons
from saffron_operator.decide.inputs import Kind, Standing, clip
from saffron_operator.decide.memory import overlay_of
from saffron_operator.names import overlay_manager
from saffron_operator.observed import Observed, TargetFacts, TargetObserved, TargetProblem

Found = tuple[str, str] | None


def _claimed(observed: Observed, name: str) -> Found:
    if observed.claimant is None:
        return None
    message = (
        f"The Deployment {name} is the target of {observed.claimant}, which is older; delete one of the two, or name "
        "another target."
    )
    return reasons.TARGET_CLAIMED, message


def _missing(observed: Observed, name: str) -> Found:
    if observed.target is not None:
        return None
    where = f"the namespace {observed.meta.namespace}"
    return (
        reasons.TARGET_NOT_FOUND,
        f"There is no Deployment {name} in {where}; create it or correct spec.rollout.targetRef.",
    )


def _unsupported(observed: Observed, _: str) -> Found:
    if observed.target is None or not isinstance(observed.target.facts, TargetProblem):
        return None
    return observed.target.facts.reason, observed.target.facts.message


def _quantizes(observed: Observed, name: str) -> Found:
    # The owner of what is promoted and served may name the method that it has; the next checkpoint may have another.
    if observed.target is None or not isinstance(observed.target.facts, TargetFacts) or _at_rest(observed):
        return None
    method = observed.target.facts.quantization
    if method is None:
        return None
    message = (
        f"The server of the Deployment {name} is told how to quantize what it loads (--quantization {method}), and "
        "refuses a checkpoint that is quantized otherwise; take that out of its arguments. It reads from a checkpoint "
        "itself how that is quantized."
    )
    return reasons.TARGET_UNSUPPORTED, message


def scaled(target: TargetObserved) -> Found:
    """Return why a roll-out by replicas can't go with what scales the target, or None where nothing does.

    No obstacle to Jobs: figures are worth having, and what is promoted may be scaled as its owner likes.
    """
    if target.autoscaler is None:
        return None
    message = (
        f"{target.autoscaler} scales the Deployment {target.name}, and would take the canary's share for less load; "
        "remove it until the checkpoint is promoted."
    )
    return reasons.TARGET_UNSUPPORTED, message


def _overlaid(observed: Observed, name: str) -> Found:
    if observed.target is None or not isinstance(observed.target.facts, TargetFacts):
        return None
    overlay = observed.target.facts.overlay
    if overlay is None or overlay.manager == overlay_manager(observed.meta.uid):
        return None
    message = (
        f"The Deployment {name} serves a checkpoint of another QuantizedModel, maybe a deleted one ({overlay.manager} "
        "holds volumes[saffron-checkpoint]); remove that volume, its volumeMount and the annotation "
        "saffron.dev/checkpoint."
    )
    return reasons.TARGET_CONFLICT, message


def _held(observed: Observed, _: str) -> Found:
    # What is promoted and served needs no change; the next roll-out will ask again.
    if observed.target is None or _at_rest(observed):
        return None
    return held(observed.target)


def _at_rest(observed: Observed) -> bool:
    """Return whether the target serves what is promoted and nothing else is being rolled out."""
    memory, overlay = observed.memory, overlay_of(observed)
    if memory.promoted is None or overlay is None:
        return False
    wanted = {memory.promoted.checkpoint_digest} | ({memory.rollout.checkpoint_digest} if memory.rollout else set())
    return wanted == {overlay.digest}


def held(target: TargetObserved) -> Found:
    """Return why the overlay can't be changed, or None where nobody else holds a part of it."""
    if not isinstance(target.facts, TargetFacts) or not target.facts.also_held:
        return None
    fields = ", ".join(f"{each.field} ({each.manager})" for each in target.facts.also_held)
    message = (
        f"Another field manager holds what Saffron sets on the Deployment {target.name}: {fields}. Take it out of what "
        "that one writes, and off the Deployment."
    )
    return reasons.TARGET_CONFLICT, message


def _canary_taken(observed: Observed, _: str) -> Found:
    canary = observed.canary
    if canary is None or canary.owner_uid == observed.meta.uid or canary.deleting:
        return None  # what is being deleted is waited for
    message = f"The Deployment {canary.name} exists and is not the canary of this QuantizedModel; delete or rename it."
    return reasons.NAME_TAKEN, message


_RULES: tuple[Callable[[Observed, str], Found], ...] = (
    _claimed,  # before all else: the older one may well be what changes the target
    _missing,
    _unsupported,
    _quantizes,
    _overlaid,
    _held,
    _canary_taken,
)


def obstacle(observed: Observed, spec: QuantizedModelSpec) -> Standing | None:
    """Return the first thing that is in the way, or None."""
    if spec.rollout is None:
        return None
    for rule in _RULES:
        found = rule(observed, spec.rollout.target_ref.name)
        if found is not None:
            return stalled(found)
    return None


def stalled(found: tuple[str, str]) -> Standing:
    """Return the standing of a resource with something in its way."""
    return Standing(Kind.STALLED, found[0], clip(found[1]), "Stalled")
