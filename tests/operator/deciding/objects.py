"""Kubernetes' objects as the API server sends them: as much of them as is read."""

from datetime import UTC, datetime
from typing import Any

MADE = "2026-01-01T00:00:00Z"
AT = datetime(2026, 1, 1, tzinfo=UTC)
LATER = "2026-01-01T00:00:09Z"
PULL = {"waiting": {"reason": "ErrImagePull", "message": "not found"}}


def pod(
    phase: str,
    state: dict[str, Any] | None = None,
    *,
    owner: str = "job",
    made: str = MADE,
    sidecar: dict[str, Any] | None = None,
    **status: Any,
) -> Any:
    """A pod of a Job; `sidecar` is the state of a container that the cluster put into it."""
    containers = [{"name": "saffron", "state": state or {}}]
    if sidecar is not None:
        containers.append({"name": "istio-proxy", "state": sidecar})
    return {
        "metadata": {
            "name": "p",
            "creationTimestamp": made,
            "ownerReferences": [{"controller": True, "uid": owner}],
        },
        "status": {"phase": phase, "containerStatuses": containers, **status},
    }
