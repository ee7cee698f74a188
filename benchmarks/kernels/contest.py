"""Several ways of computing the same, timed in turns in one process, so that whatever else the machine does hits all.

A round gives each way some calls in a row, as a model's layers would, and begins with another way than the one before.
Ratios are taken within rounds.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Way = Callable[[int], object]
"""Given the number of the call, so that it can take other weights each time."""


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""What is measured: the time that passes, or what processors spend in all of this process's threads.

The second also means something while other programs run, if threads do not spin while they wait for work:
OMP_WAIT_POLICY=PASSIVE.
"""


def contest(ways: Mapping[str, Way], rounds: int, calls: int, clock: str) -> dict[str, list[float]]:
    """Seconds a call of each way, by round, on one of the clocks."""
    now = CLOCKS[clock]
    names, taken = list(ways), {name: [0.0] * rounds for name in ways}
    for name in names:
        ways[name](0)
    for number in range(rounds):
        for place in range(len(names)):
            name = names[(number + place) % len(names)]
            begun = now()
            for call in range(number * calls, (number + 1) * calls):
                ways[name](call)
            taken[name][number] = (now() - begun) / calls
    return taken


def header(other: str) -> str:
    """What stands above the lines of `compare`, given the name of the other way."""
    return f"{'ours':>11} {other:>12}   the time of {other} over ours (quartiles)"


def compare(ours: Callable[[], object], other: Callable[[], object], args: argparse.Namespace) -> str:
    """Time two ways as the command line says: the median of each, and their ratio."""
    ways = {"ours": lambda _: ours(), "other": lambda _: other()}
    taken = contest(ways, args.rounds, args.calls, args.clock)
    our_ms, other_ms = (statistics.median(taken[way]) * 1e3 for way in ways)
    return f"{our_ms:8.2f} ms {other_ms:9.2f} ms   {ratio(taken['ours'], taken['other'])}"


def arguments(description: str, rounds: int, calls: int = 1) -> argparse.ArgumentParser:
    """A command line with what every contest has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--calls", type=int, default=calls, help="calls of one way in a row")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu, with OMP_WAIT_POLICY=PASSIVE: beside load"
    )
    return parser


def fastest(taken: Mapping[str, list[float]], names: tuple[str, ...]) -> str:
    """The way among these with the least median."""
    return min(names, key=lambda name: statistics.median(taken[name]))


def ratio(ours: list[float], other: list[float]) -> str:
    """How many times as long the other took, round by round: the median and the quartiles."""
    low, middle, high = statistics.quantiles([b / a for a, b in zip(ours, other, strict=True)], n=4)
    return f"{middle:5.2f} ({low:.2f} .. {high:.2f})"


def machine(clock: str) -> str:
    """What the figures depend on, and what else runs."""
    model = next(
        line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line
    )
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{model.split(':')[1].strip()}, torch's kernels {capability}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, {clock} time, load {os.getloadavg()[0]:.1f}"
    )
