"""Do what was decided: the status first, then the acts in their order, then the events.

The first call that fails ends the pass. What was done stands, and the next pass decides from there.
"""

import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from uuid import uuid4

from saffron_api.quantized_model import KIND, QuantizedModelStatus
from saffron_operator import reasons
from saffron_operator.client import Cluster, Object
from saffron_operator.decision import (
    Action,
    ApplyCanary,
    ApplyOverlay,
    CreateJob,
    Decision,
    DeleteCanary,
    DeleteJob,
    Event,
    EventType,
    KeepResult,
    RemoveOverlay,
)
from saffron_operator.errors import RefusedError
from saffron_operator.names import FIELD_MANAGER, RESULT_ANNOTATION
from saffron_operator.observed import Json, ResourceMeta
from saffron_operator.resources import DEPLOYMENTS, EVENTS, JOBS, QUANTIZED_MODELS

log = logging.getLogger(__name__)

_LONGEST_NOTE = 1024
"""Bytes of UTF-8; the API server refuses a longer event."""


async def act(
    cluster: Cluster,
    meta: ResourceMeta,
    before: QuantizedModelStatus | None,
    decision: Decision,
    *,
    instance: str,
    refused: str | None = None,
) -> None:
    """Bring the cluster to what was decided.

    Args:
        cluster: Where.
        meta: Of the QuantizedModel, as it was observed.
        before: Its status as it was observed, or None where that could not be read.
        decision: What to do.
        instance: This replica's name, for the events.
        refused: What the API server refused in the pass before, if anything.

    Raises:
        ConflictError: The resource, or an object that was to be made or changed, is another one by now.
        RefusedError: The API server does not take the status or an act. The events are sent all the same: one of them
            may tell that it did not in the pass before.
        ApiError: A call failed for another reason.
    """
    if decision.status is not None and decision.status != before:
        try:
            await _write_status(cluster, meta, decision.status)
        except RefusedError as error:
            if str(error) != refused:  # no status will tell it, so this is told once
                await _tell(cluster, meta, (_of_refused_status(error),), instance)
            raise
    try:
        for action in decision.actions:
            await _do(cluster, meta.namespace, action)
    except RefusedError:
        await _tell(cluster, meta, decision.events, instance)
        raise
    await _tell(cluster, meta, decision.events, instance)


def _of_refused_status(error: RefusedError) -> Event:
    message = f"The API server does not take the status ({error}). Mend that; Saffron tries again by itself."
    return Event(EventType.WARNING, reasons.REFUSED, message)


async def _tell(cluster: Cluster, meta: ResourceMeta, events: Sequence[Event], instance: str) -> None:
    for event in events:
        try:
            await cluster.create(EVENTS, meta.namespace, _event(meta, event, instance), manager=FIELD_MANAGER)
        except RefusedError as error:
            # What it tells stands in the status, and is done or not all the same.
            log.warning("event refused", extra={"fields": {"key": f"{meta.namespace}/{meta.name}", "error": error}})


async def _write_status(cluster: Cluster, meta: ResourceMeta, status: QuantizedModelStatus) -> None:
    """Write the whole status at once. By force: whoever else wrote it, it is ours."""
    body = {
        "apiVersion": QUANTIZED_MODELS.api_version,
        "kind": KIND,
        "metadata": {
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
        },
        "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    await cluster.apply(
        QUANTIZED_MODELS, meta.namespace, meta.name, body, manager=FIELD_MANAGER, force=True, subresource="status"
    )


async def _do(cluster: Cluster, namespace: str, action: Action) -> None:
    match action:
        case CreateJob(_, manifest):
            await cluster.create(JOBS, namespace, manifest, manager=FIELD_MANAGER)
        case DeleteJob(name, uid):
            await cluster.delete(JOBS, namespace, name, uid=uid)
        case KeepResult(name, uid, text):
            metadata = {"name": name, "namespace": namespace, "uid": uid, "annotations": {RESULT_ANNOTATION: text}}
            kept = {"apiVersion": JOBS.api_version, "kind": "Job", "metadata": metadata}
            await cluster.apply(JOBS, namespace, name, kept, manager=FIELD_MANAGER, force=False)
        case ApplyCanary(_, manifest, exists=False):
            await cluster.create(DEPLOYMENTS, namespace, manifest, manager=FIELD_MANAGER)
        case ApplyCanary(name, manifest, exists=True):
            await cluster.patch(DEPLOYMENTS, namespace, name, list(_as_built(manifest)))
        case DeleteCanary(name, uid):
            await cluster.delete(DEPLOYMENTS, namespace, name, uid=uid)
        case ApplyOverlay(name, manager, manifest) | RemoveOverlay(name, manager, manifest):
            await cluster.apply(DEPLOYMENTS, namespace, name, manifest, manager=manager, force=False)


def _as_built(manifest: Json) -> Iterator[Object]:
    """Yield the JSON Patch after which a canary that is there is what it would be if it were made anew.

    An apply would not do: what was set by creating it stays, whoever leaves it out later, and so a variable, a volume
    or a label that the target no longer has.
    """
    metadata = manifest["metadata"]
    yield {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]}
    yield {"op": "replace", "path": "/spec", "value": manifest["spec"]}
    for name, value in metadata["annotations"].items():
        yield {
            "op": "add",
            "path": f"/metadata/annotations/{name.replace('~', '~0').replace('/', '~1')}",
            "value": value,
        }


def _event(meta: ResourceMeta, event: Event, instance: str) -> Object:
    return {
        "apiVersion": EVENTS.api_version,
        "kind": "Event",
        # The name ends in something new: the same event may happen twice.
        "metadata": {"name": f"{meta.name}.{uuid4().hex[:16]}", "namespace": meta.namespace},
        "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": "saffron.dev/operator",
        "reportingInstance": instance[:128],
        "action": "Reconcile",
        "type": event.type,
        "reason": event.reason,
        "note": _note(event.message),
        "regarding": {
            "apiVersion": QUANTIZED_MODELS.api_version,
            "kind": KIND,
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
        },
    }


def _note(message: str) -> str:
    """Return a message, cut to what an event may hold: never in the middle of a letter."""
    encoded = message.encode()
    if len(encoded) <= _LONGEST_NOTE:
        return message
    return encoded[: _LONGEST_NOTE - 3].decode(errors="ignore") + "..."


def describe(actions: tuple[Action, ...]) -> Iterator[str]:
    """Yield each act in a few words, for the log."""
    for action in actions:
        yield f"{type(action).__name__} {action.name}"
