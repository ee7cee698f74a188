"""How much memory this process has needed, and how much more it may take."""

import resource
from collections.abc import Iterator
from pathlib import Path

_KIBIBYTE = 1024


def peak_bytes() -> int:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIBIBYTE


def free_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process may still take: the machine's, or what the tightest of its control groups leaves.

    Files that the system keeps in memory without need count as free: they give way.

    Args:
        root: where /proc and /sys are.

    Returns:
        None where the system does not tell.
    """
    bounds = [*_of_machine(root), *_of_groups(root)]
    return max(min(bounds), 0) if bounds else None


def _of_machine(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/meminfo"):
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            yield int(amount.split()[0]) * _KIBIBYTE


def _of_groups(root: Path) -> Iterator[int]:
    """What each control group above this process leaves, in either version of the interface."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _of_tree(root / "sys/fs/cgroup", path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _of_tree(root / "sys/fs/cgroup/memory", path, *names)


def _of_tree(mount: Path, path: str, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    """What a group and those around it leave. Inside a container its own group is the root of the mount."""
    group = mount / path.lstrip("/")
    for folder in (group, *group.parents):
        allowed = _lines(folder / limit)
        if allowed and allowed[0] != "max":
            files = sum(
                int(line.split()[1]) for line in _lines(folder / "memory.stat") if line.startswith(f"{reclaimable} ")
            )
            yield int(allowed[0]) - int(_lines(folder / usage)[0]) + files
        if folder == mount:
            return


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
