"""What of the memory holds: read back where the status was lost, let go where a person asks to try again."""

from dataclasses import replace
from datetime import datetime

from saffron_api.quantized_model import PromotedStatus
from saffron_api.results import EvaluateResult, QuantizeResult
from saffron_operator.decide.run import Run
from saffron_operator.decide.scene import PROMOTION_WEIGHT, RolloutMemory
from saffron_operator.observed import Observed, Overlay, TargetFacts

_UNKNOWN = "unknown"


def current_memory(observed: Observed, memory: RolloutMemory, run: Run, now: datetime) -> RolloutMemory:
    """Return the memory that this pass goes on from."""
    if observed.memory.run is None:
        return _recovered(observed, memory, now)
    return _retried(observed, memory) if run.retried else memory


def overlay_of(observed: Observed) -> Overlay | None:
    """Return what of ours is mounted on the target, as far as the target can be read."""
    facts = observed.target.facts if observed.target is not None else None
    return facts.overlay if isinstance(facts, TargetFacts) else None


def drifted(observed: Observed, memory: RolloutMemory) -> bool:
    """Return whether the target serves something else than what was promoted, and not because of us."""
    if memory.promoted is None:
        return False
    rollout, overlay = memory.rollout, overlay_of(observed)
    ours = (
        rollout is not None
        and rollout.desired_weight == PROMOTION_WEIGHT
        and rollout.checkpoint_digest != memory.promoted.checkpoint_digest
    )
    return not ours and (overlay is None or overlay.digest != memory.promoted.checkpoint_digest)


def _recovered(observed: Observed, memory: RolloutMemory, now: datetime) -> RolloutMemory:
    """Return the memory of a resource without a run: the status is new, or lost while a checkpoint is served.

    A canary of the same checkpoint tells a promotion that was under way: that one gets fresh steps.
    """
    overlay, canary = overlay_of(observed), observed.canary
    if overlay is None or memory.promoted is not None or (canary is not None and canary.digest == overlay.digest):
        return memory
    promoted = PromotedStatus(
        run_id=overlay.run or _UNKNOWN,
        candidate=overlay.candidate or _UNKNOWN,
        checkpoint_digest=overlay.digest,
        at=now,
    )
    return replace(memory, promoted=promoted)


def _retried(observed: Observed, memory: RolloutMemory) -> RolloutMemory:
    """Return the memory after a person asked to try again: this run's checkpoints are no longer rejected.

    A checkpoint that somebody took off the target is rolled out with fresh steps.
    """
    results = [job.result for job in observed.jobs if job.owner_uid == observed.meta.uid]
    own = {each.checkpoint_digest for each in results if isinstance(each, QuantizeResult | EvaluateResult)}
    kept = tuple(entry for entry in memory.rejected if entry.checkpoint_digest not in own)
    memory = replace(memory, rejected=kept)
    return replace(memory, promoted=None, rollout=None) if drifted(observed, memory) else memory
