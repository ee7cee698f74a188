"""Rows shared among threads, for loops that hold no lock while they run."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def over_rows(rows: int, part: Callable[[int, int], None], *, least: int) -> None:
    """Call `part(begin, end)` for parts that make up all rows, each in a thread of its own.

    There are no more threads than torch would take.

    Args:
        rows: how many there are.
        part: does the rows begin..end - 1; its error is raised here.
        least: rows that are worth a thread: to start one takes some 50 µs.
    """
    threads = min(torch.get_num_threads(), rows // max(1, least))
    if threads <= 1:
        part(0, rows)
        return
    bounds = [rows * number // threads for number in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, bounds[:-1], bounds[1:]))
