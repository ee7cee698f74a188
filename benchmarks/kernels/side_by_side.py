"""Two ways of computing the same, timed in turns in one process, so that whatever else the machine does hits both."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ratio:
    """How many times as long the other way took, round by round.

    Attributes:
        rounds: of each round.
        ours: the median of our seconds.
        other: of the other's.
    """

    rounds: list[float]
    ours: float
    other: float

    def __str__(self) -> str:
        low, middle, high = statistics.quantiles(self.rounds, n=4)
        return f"{self.ours * 1e3:8.2f} ms {self.other * 1e3:9.2f} ms   {middle:5.2f} ({low:.2f} .. {high:.2f})"


HEADER = f"{'ours':>11} {'the other':>12}   ratio (quartiles)"


def compare(ours: Callable[[], object], other: Callable[[], object], rounds: int) -> Ratio:
    """Time both in turns after one call of each, which one is first changing from round to round."""
    ours()
    other()
    taken: dict[bool, list[float]] = {True: [], False: []}
    for number in range(rounds):
        for mine in (True, False) if number % 2 else (False, True):
            begun = time.perf_counter()
            (ours if mine else other)()
            taken[mine].append(time.perf_counter() - begun)
    ratios = [other_s / ours_s for ours_s, other_s in zip(taken[True], taken[False], strict=True)]
    return Ratio(ratios, statistics.median(taken[True]), statistics.median(taken[False]))


def threads() -> str:
    """What the figures depend on beside the processor."""
    return f"{torch.get_num_threads()} threads, torch {torch.__version__}"
