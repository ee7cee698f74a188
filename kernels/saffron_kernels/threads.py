"""Rows shared among threads, for loops that hold no lock while they run."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def over_rows(rows: int, part: Callable[[int, int], None]) -> None:
    """Call `part(begin, end)` for parts that make up all rows, one in each of torch's number of threads.

    Args:
        rows: how many there are.
        part: does the rows begin..end - 1; its error is raised here.
    """
    threads = min(torch.get_num_threads(), rows)
    if threads <= 1:
        part(0, rows)
        return
    bounds = [rows * number // threads for number in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, bounds[:-1], bounds[1:]))
