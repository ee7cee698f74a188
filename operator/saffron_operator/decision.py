"""What one pass decides: the status to write, then the acts, then the events.

The order is part of the promise. The status is one write, with the resourceVersion that was observed, and comes before
the acts that it describes: whoever dies in between leaves a memory of what was meant, and the next pass does it.
Acts are done in their order; the first that fails ends the pass.
"""

from dataclasses import dataclass
from enum import StrEnum

from saffron_api.quantized_model import QuantizedModelStatus
from saffron_operator.observed import Json


@dataclass(frozen=True)
class CreateJob:
    """Create a Job (POST; a Conflict means that the next pass has to look again)."""

    name: str
    manifest: Json


@dataclass(frozen=True)
class DeleteJob:
    """Delete a Job and its pods in the background, if its uid is still this one.

    The pods end a while later; until then `Observed.leaving` names them.
    """

    name: str
    uid: str


@dataclass(frozen=True)
class KeepResult:
    """Write the result of a finished Job's pod into the Job's annotation `saffron.dev/result`, if its uid is this one.

    Attributes:
        text: One line of JSON, of at most 4,096 bytes, as `saffron_api.results.encode` makes it.
    """

    name: str
    uid: str
    text: str


@dataclass(frozen=True)
class ApplyCanary:
    """Make or change the canary Deployment.

    Attributes:
        exists: False: create it (POST), so that a Deployment of that name that appears meanwhile is not taken over.
            True: give it this spec in the place of the one that it has; the manifest holds the uid, so that no other
            object is changed.
    """

    name: str
    manifest: Json
    exists: bool


@dataclass(frozen=True)
class DeleteCanary:
    """Delete the canary and its pods in the background, if its uid is still this one."""

    name: str
    uid: str


@dataclass(frozen=True)
class ApplyOverlay:
    """Server-side apply without force to the target; the manifest holds the resourceVersion that was observed."""

    name: str
    field_manager: str
    manifest: Json


@dataclass(frozen=True)
class RemoveOverlay:
    """The same apply without the overlay's fields, which removes them."""

    name: str
    field_manager: str
    manifest: Json


Action = CreateJob | DeleteJob | KeepResult | ApplyCanary | DeleteCanary | ApplyOverlay | RemoveOverlay
"""Every act that there is."""


class EventType(StrEnum):
    """The two types of Kubernetes events."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True)
class Event:
    """An event about the QuantizedModel. Sent once, after the acts; lost if the operator dies before."""

    type: EventType
    reason: str
    message: str


@dataclass(frozen=True)
class Decision:
    """What is to be done now.

    Attributes:
        status: The whole status, or None to leave it as it is (the resource is being deleted). Written only where it
            differs from what stands there.
        actions: In their order.
        events: In their order.
        requeue_after: Seconds until a time limit or a pause asks for another pass; None where only a change does.
        idle: Nothing is brought on, by a person's wish or since the target can't be used, so no time limit runs.
    """

    status: QuantizedModelStatus | None
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    idle: bool = False
