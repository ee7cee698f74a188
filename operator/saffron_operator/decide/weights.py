"""Shares of the requests, given by numbers of pods: Services pick any ready pod alike."""

NOTICED = 5
"""Points between the share asked for and the one that whole pods give, from which on it is worth an event."""


def canary_replicas(stable: int, weight: int, most: int) -> int:
    """Return how many canary pods give them about a share of all requests.

    Args:
        stable: The target's ready pods, at least 1. Their number is never changed.
        weight: The canary's share, in percent, 1 to 99.
        most: spec.rollout.maxExtraReplicas.
    """
    wanted = (2 * stable * weight + (100 - weight)) // (2 * (100 - weight))  # rounded, halves up
    return max(1, min(wanted, stable, most))


def share(canary: int, stable: int) -> int:
    """Return the canary's share of all requests, in percent."""
    pods = canary + stable
    return round(100 * canary / pods) if pods else 0
