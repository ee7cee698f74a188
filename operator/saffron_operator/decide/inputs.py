"""What every part of one pass looks at, and the words in which the parts tell each other how things stand."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from saffron_api.quantized_model import QuantizedModelSpec, RejectedStatus, RunStatus
from saffron_operator.names import RETRY_ANNOTATION
from saffron_operator.observed import Observed

LONGEST_MESSAGE = 1024
"""The API takes 2,048; a person reads less."""


class Kind(StrEnum):
    """How a QuantizedModel stands, as kstatus tells it apart."""

    WORKING = "Working"
    """Something goes on: Ready is False, Reconciling True."""
    WAITING = "Waiting"
    """A person's word is waited for: Ready is False."""
    READY = "Ready"
    """It is as asked for: Ready is True."""
    STALLED = "Stalled"
    """Nothing goes on until a person changes something: Ready is False, Stalled True."""


@dataclass(frozen=True)
class Standing:
    """How things stand.

    Attributes:
        reason: Of `saffron_operator.reasons`, or of `saffron_api.failures`.
        message: What is the case and, where a person has to act, what to do.
        phase: For the column of `kubectl get`.
    """

    kind: Kind
    reason: str
    message: str
    phase: str


@dataclass(frozen=True)
class Inputs:
    """What was observed, with what is already known of it.

    Attributes:
        spec: The spec, which can be read.
        run: The run that this pass works on.
        now: In whole seconds, since it is written down.
    """

    observed: Observed
    spec: QuantizedModelSpec
    run: RunStatus
    now: datetime

    def waits_since(self, entered: datetime) -> datetime:
        """Return since when something is waited for: since it was written down, or since somebody looks on again."""
        return max(entered, (self.now - self.observed.attended).replace(microsecond=0))

    def asked(self, annotation: str) -> bool:
        """Return whether a person set an annotation to the id of this run."""
        return self.observed.meta.annotations.get(annotation) == self.run.id

    @property
    def retry_hint(self) -> str:
        """How to try again."""
        meta = self.observed.meta
        return (
            "To try again: kubectl annotate --overwrite "
            f"-n {meta.namespace} qm/{meta.name} {RETRY_ANNOTATION}={self.run.id}"
        )

    def stalled(self, reason: str, message: str) -> Standing:
        """Return the standing that ends with how to try again."""
        return Standing(Kind.STALLED, reason, f"{clip(message)} {self.retry_hint}", "Stalled")


def clip(text: str) -> str:
    """Return a text of at most `LONGEST_MESSAGE` characters."""
    return text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 3] + "..."


def rejection(rejected: tuple[RejectedStatus, ...], digest: str) -> RejectedStatus | None:
    """Return why a checkpoint is not rolled out, or None where it may be."""
    return next((entry for entry in rejected if entry.checkpoint_digest == digest), None)
