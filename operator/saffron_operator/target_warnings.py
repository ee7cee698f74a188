"""What on a target may make requests fail during a roll-out. A warning only: its author may accept that."""

import math

from saffron_operator.observed import Json


def warnings(deployment: Json, container: Json) -> tuple[str, ...]:
    """Return a sentence for each thing that a roll-out without failed requests needs and the target lacks."""
    where = f"containers[{container['name']}]"
    found = []
    if "preStop" not in container.get("lifecycle", {}):
        found.append(
            f"{where}.lifecycle.preStop is missing: a pod that ends stops to answer before clients stop to ask; let it "
            "sleep some seconds."
        )
    if "readinessProbe" not in container:
        found.append(f"{where}.readinessProbe is missing: requests reach a pod before its model is loaded; add one.")
    if _may_be_missing(deployment["spec"]) > 0:
        found.append("spec.strategy lets pods end before new ones are ready; set rollingUpdate.maxUnavailable to 0.")
    return tuple(found)


def _may_be_missing(spec: Json) -> int:
    """Return how many pods may be missing during a rolling update, as the Deployment controller counts."""
    replicas = int(spec.get("replicas", 1))
    strategy = spec.get("strategy", {})
    if strategy.get("type", "RollingUpdate") != "RollingUpdate":
        return replicas
    rolling = strategy.get("rollingUpdate") or {}
    unavailable = _count(rolling.get("maxUnavailable", "25%"), replicas, up=False)
    surge = _count(rolling.get("maxSurge", "25%"), replicas, up=True)
    # The controller can't move with neither, and then takes one pod away.
    return unavailable or (0 if surge else 1)


def _count(value: int | str, replicas: int, *, up: bool) -> int:
    """Return a number of pods, given as such or as a percentage of the replicas."""
    if isinstance(value, int):
        return value
    share = int(value.rstrip("%")) * replicas / 100
    return math.ceil(share) if up else math.floor(share)
