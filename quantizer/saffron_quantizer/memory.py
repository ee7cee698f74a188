"""How much memory this process has needed, how much more it may take, and how it gives back what it needs no more."""

import ctypes
import resource
from collections.abc import Iterator
from pathlib import Path

_KIBIBYTE = 1024

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8
"""Parameters of glibc's `mallopt`, as malloc.h numbers them."""
_OWN_MAPPING_BYTES = 32 << 20
"""What is at least as large is mapped by itself, and so given back at once: Hessians and float copies of weights.

The intermediate results of a batch are smaller. They stay in the heap, where the next ones take their place."""
_KEPT_FREE_BYTES = 16 << 20


def peak_bytes() -> int:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIBIBYTE


def keep_memory_small() -> None:
    """Let this process give large pieces of memory back when it frees them, and its threads share one heap.

    By default glibc keeps what was freed for later, up to twice 32 MiB in each heap, and makes a heap for each thread.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, _OWN_MAPPING_BYTES)
    libc.mallopt(_TRIM_THRESHOLD, _KEPT_FREE_BYTES)
    libc.mallopt(_ARENA_MAX, 1)


def give_back_free_memory() -> None:
    """Give back what is free inside the heap, between pieces that are in use."""
    ctypes.CDLL(None).malloc_trim(0)


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
