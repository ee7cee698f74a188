"""Rows shared among threads, for loops that hold no lock while they run."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise

import torch


def over_rows(rows: int, part: Callable[[int, int], None], *, least: int) -> None:
    """Call `part(begin, end)` for parts that make up all rows, each in a thread of its own, one of them the caller's.

    There are no more threads than torch would take.

    Args:
        rows: how many there are.
        part: does the rows begin..end - 1; its error is raised here, once no part runs any more.
        least: rows that are worth a thread: to hand it its part takes some 20 µs.
    """
    threads = min(torch.get_num_threads(), rows // max(1, least))
    if threads <= 1:
        part(0, rows)
        return
    bounds = [rows * number // threads for number in range(threads + 1)]
    others = [_pool(threads - 1).submit(part, *ends) for ends in pairwise(bounds[1:])]
    try:
        part(0, bounds[1])
    finally:
        wait(others)
    for other in others:
        other.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work: to start new ones for each loop takes longer than the short loops do."""
    return ThreadPoolExecutor(threads, thread_name_prefix="rows")
