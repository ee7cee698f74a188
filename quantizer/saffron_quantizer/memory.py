"""How much memory this process has needed."""

import resource

_KIBIBYTE = 1024


def peak_bytes() -> int:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIBIBYTE
