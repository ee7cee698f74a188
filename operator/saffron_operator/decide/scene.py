"""What a roll-out acts on and what it leaves behind: the types that its files share, and the acts on the target."""

from dataclasses import dataclass, field, replace
from datetime import datetime

from saffron_api.quantized_model import (
    PromotedStatus,
    RejectedStatus,
    Rollout,
    RolloutStatus,
)
from saffron_operator.decide.inputs import Inputs, Standing, clip, rejection
from saffron_operator.decision import Action, ApplyOverlay, DeleteCanary, Event, RemoveOverlay
from saffron_operator.manifests import overlay
from saffron_operator.manifests.overlay import Checkpoint
from saffron_operator.names import overlay_manager
from saffron_operator.observed import CanaryObserved, TargetFacts, TargetObserved

PROMOTION_WEIGHT = 100
"""The desired weight of a promotion. Steps have 1 to 99, so it is told from them even if the spec's steps change."""

_MOST_REJECTED = 20


@dataclass(frozen=True)
class Scene:
    """What a roll-out looks at.

    Attributes:
        inputs: Of the pass.
        settings: spec.rollout.
        target: The Deployment, which can be worked with.
        facts: Of it.
        canary: Ours, or None.
        memory: What is remembered by now.
    """

    inputs: Inputs
    settings: Rollout
    target: TargetObserved
    facts: TargetFacts
    canary: CanaryObserved | None
    memory: "RolloutMemory"

    def checkpoint(self, rollout: RolloutStatus) -> Checkpoint:
        """Return what a roll-out mounts."""
        return self._stored(rollout.run_id, rollout.candidate, rollout.checkpoint_digest)

    def _stored(self, run: str, candidate: str, digest: str) -> Checkpoint:
        store = self.inputs.spec.storage.checkpoints
        return Checkpoint(run, candidate, digest, store.claim_name, store.path)

    def serves(self, digest: str) -> bool:
        """Return whether the target's template has a checkpoint mounted."""
        return self.facts.overlay is not None and self.facts.overlay.digest == digest

    def apply(self, checkpoint: Checkpoint) -> ApplyOverlay:
        """Return the act that mounts a checkpoint on the target."""
        meta, container = self.inputs.observed.meta, self.settings.target_ref.container
        manifest = overlay.applied(meta, self.target, container, self.facts.model_path, checkpoint)
        return ApplyOverlay(self.target.name, overlay_manager(meta.uid), manifest)

    def restore(self, rollout: RolloutStatus) -> ApplyOverlay | RemoveOverlay:
        """Return the act that gives the target back what it served before a roll-out."""
        before = self.memory.promoted
        if before is not None and before.checkpoint_digest == rollout.previous_digest:
            return self.apply(self._stored(before.run_id, before.candidate, before.checkpoint_digest))
        meta = self.inputs.observed.meta
        return RemoveOverlay(self.target.name, overlay_manager(meta.uid), overlay.removed(meta, self.target))

    def remove_canary(self) -> tuple[Action, ...]:
        """Return the act that removes the canary, if there is one to remove."""
        if self.canary is None or self.canary.deleting:
            return ()
        return (DeleteCanary(self.canary.name, self.canary.uid),)

    def is_promoted(self, digest: str) -> bool:
        """Return whether a checkpoint is the promoted one."""
        promoted = self.memory.promoted
        return promoted is not None and promoted.checkpoint_digest == digest


@dataclass(frozen=True)
class RolloutMemory:
    """The part of the status that a roll-out remembers."""

    rollout: RolloutStatus | None
    promoted: PromotedStatus | None
    rejected: tuple[RejectedStatus, ...]

    @property
    def changes_target(self) -> bool:
        """Whether a promotion has begun to change the target and is not done."""
        if self.rollout is None or self.rollout.desired_weight != PROMOTION_WEIGHT:
            return False
        return self.promoted is None or self.promoted.checkpoint_digest != self.rollout.checkpoint_digest

    @property
    def undoes(self) -> bool:
        """Whether a roll-out whose checkpoint was rejected is not taken back altogether."""
        return self.rollout is not None and self.why_rejected(self.rollout.checkpoint_digest) is not None

    def why_rejected(self, digest: str) -> RejectedStatus | None:
        """Return why a checkpoint is not rolled out, or None where it may be."""
        return rejection(self.rejected, digest)

    def reject(self, digest: str, reason: str, message: str, now: datetime) -> "RolloutMemory":
        """Return the memory with a checkpoint rejected, in which only the newest are kept."""
        others = tuple(entry for entry in self.rejected if entry.checkpoint_digest != digest)
        entry = RejectedStatus(checkpoint_digest=digest, reason=reason, message=clip(message), at=now)
        return replace(self, rejected=(*others, entry)[-_MOST_REJECTED:])


@dataclass(frozen=True)
class Step:
    """What a pass does about a roll-out.

    Attributes:
        standing: How things stand.
        memory: To write before the acts.
        actions: On the canary and the target.
        events: About what happened to them.
        revisit: When a time limit or a pause asks for another pass.
        idle: Nothing can be brought on, so no time limit runs.
    """

    standing: Standing
    memory: RolloutMemory
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = field(default=())
    revisit: datetime | None = None
    idle: bool = False
