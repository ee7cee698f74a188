"""How much memory this process has needed, how much more it may take, and how it gives back what it needs no more."""

import ctypes
import math
import mmap
import resource
import weakref
from collections.abc import Iterator
from pathlib import Path

from saffron_quantizer.libraries import give_back_libraries

_KIBIBYTE = 1024

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8
"""Parameters of glibc's `mallopt`, as malloc.h numbers them."""
_LARGE_BYTES = 1 << 18
"""What is at least as large is mapped by itself before the walk through a model begins."""
_OWN_MAPPING_BYTES = 8 << 20
"""As `_LARGE_BYTES` during the walk: Hessians of wide layers and float copies of their weights.

The intermediate results of a batch of a narrow model are smaller. They come from the heap, where the next ones take
their place; of a wider one they take so long to compute that new pages do not matter."""
_KEPT_FREE_BYTES = 16 << 20
_SLAB_BYTES, _SLAB_STEP = 4 << 20, 1 << 20
"""Of a slab for small things, and what the size of one for a large thing is a multiple of."""
_COUNTED = ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]
"""What glibc's `mallinfo2` counts; `fordblks` are the free bytes of the heap."""
_IDLE_BYTES = 32 << 20
"""Free bytes inside the heap that are worth the time to give them back, some 10 ms with what is taken again."""


def peak_bytes() -> int:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIBIBYTE


def share_one_heap() -> None:
    """Let all threads share one heap. By default glibc makes another for each of the first ones.

    To be called before a thread is begun: it keeps the heap that it has.
    """
    ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def keep_memory_small() -> None:
    """Let this process give large pieces of memory back when it frees them.

    By default glibc keeps what was freed for later, up to twice 32 MiB. What a model is built of comes and goes in many
    sizes, between small things that stay; in the heap it would leave holes that nothing larger fits into.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
    libc.mallopt(_TRIM_THRESHOLD, _KEPT_FREE_BYTES)


def reuse_memory() -> None:
    """Let the heap give again what it got back, up to `_OWN_MAPPING_BYTES`, for the same steps over and over.

    To map memory, to touch its pages for the first time and to give it back takes longer than many a step.
    """
    give_back_free_memory()
    give_back_libraries()
    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _OWN_MAPPING_BYTES)


def own_mapping(size: int) -> mmap.mmap:
    """Memory outside the heap, all zero, which goes back to the system when nothing refers to it any more.

    Args:
        size: bytes, at least one.
    """
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Slabs:
    """Memory outside the heap for what stays for a while, taken again and again.

    In the heap it would lie between the results of single steps, and leave holes that the next ones do not fit into. To
    map memory anew each time takes longer than many a step.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[mmap.mmap]] = {}

    def take(self, size: int) -> memoryview:
        """At least so many bytes, for one large thing or some small ones, until nothing refers to them any more."""
        size = _SLAB_BYTES if 2 * size <= _SLAB_BYTES else -(-size // _SLAB_STEP) * _SLAB_STEP
        free = self._free.setdefault(size, [])
        mapping = free.pop() if free else own_mapping(size)
        slab = memoryview(mapping)
        weakref.finalize(slab, free.append, mapping)
        return slab


def give_back_idle_memory() -> None:
    """Give back what is free inside the heap, and pages of libraries, if either is much."""
    if _free_inside_heap() > _IDLE_BYTES:
        give_back_free_memory()
    give_back_libraries()


def give_back_free_memory() -> None:
    """Give back what is free inside the heap, between pieces that are in use."""
    ctypes.CDLL(None).malloc_trim(0)


class _HeapUse(ctypes.Structure):
    """What `mallinfo2` gives."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in _COUNTED)


def _free_inside_heap() -> float:
    """Bytes of the heap that are free; more than any number where glibc is too old to tell."""
    told = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if told is None:
        return math.inf
    told.restype = _HeapUse
    return int(told().fordblks)


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
