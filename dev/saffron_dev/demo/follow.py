"""Follow one QuantizedModel and tell what happens to it until it comes to an end."""

import time
from collections.abc import Callable
from typing import Any

from saffron_api.status import QuantizedModelStatus
from saffron_dev.demo.kubectl import Kubectl
from saffron_dev.demo.stopwatch import Stopwatch
from saffron_dev.demo.story import job_seconds, news
from saffron_dev.errors import DevError

_POLL_SECONDS = 1.0
JOBS = "app.kubernetes.io/managed-by=saffron"

Glance = Callable[[QuantizedModelStatus], None]


def follow(
    kubectl: Kubectl, name: str, watch: Stopwatch, *, seconds: float, glance: Glance | None = None
) -> QuantizedModelStatus:
    """Tell every news until the resource is promoted, ready or stalled; returns its last status.

    Args:
        kubectl: Bound to its namespace.
        name: Of the QuantizedModel.
        watch: Tells the news.
        seconds: How long it may take.
        glance: Called with each status that is read.

    Raises:
        DevError: It took longer, or the resource has gone.
    """
    deadline = time.monotonic() + seconds
    before, told = QuantizedModelStatus(), set[str]()
    while time.monotonic() < deadline:
        resource = kubectl.get("quantizedmodels", name)
        if resource is None:
            raise DevError(f"QuantizedModel {name} was deleted while it was followed.")
        status = QuantizedModelStatus.model_validate(resource.get("status", {}))
        for line in news(before, status):
            watch.say(line)
        for job, took in job_seconds(kubectl.items("jobs", JOBS)):
            if job not in told:
                told.add(job)
                watch.say(f"Job {job} ended after {took:.0f} s")
        if glance is not None:
            glance(status)
        if ended(resource, status):
            return status
        before = status
        time.sleep(_POLL_SECONDS)
    raise DevError(f"QuantizedModel {name} came to no end in {seconds:.0f} s; its status is printed above.")


def settle(kubectl: Kubectl, selector: str, pods: int, *, seconds: float) -> None:
    """Wait until only so many pods carry the labels: those that were replaced still answer while they end.

    Raises:
        DevError: More are still there after that time.
    """
    deadline = time.monotonic() + seconds
    while len(found := kubectl.items("pods", selector)) > pods:
        if time.monotonic() > deadline:
            names = ", ".join(pod["metadata"]["name"] for pod in found)
            raise DevError(f"{pods} pods should serve, and after {seconds:.0f} s there are still {names}.")
        time.sleep(_POLL_SECONDS)


def ended(resource: dict[str, Any], status: QuantizedModelStatus) -> bool:
    """Return whether nothing more happens by itself: the spec's last change was seen, and it is Ready or Stalled."""
    seen = status.observed_generation == resource["metadata"]["generation"]
    return seen and any(
        condition.type in {"Ready", "Stalled"} and condition.status == "True" for condition in status.conditions
    )
