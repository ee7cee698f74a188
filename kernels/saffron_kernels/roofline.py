"""A lower bound of each kernel's time on cards that aren't there: a prediction, which nobody measured.

python -m saffron_kernels.roofline

A kernel takes at least as long as memory needs for its bytes and the arithmetic units for its operations (Williams et
al., Roofline, CACM 2009), each at the peak of the data sheet. Latency, caches and clocks under load are not in it.
Occupancy, from the registers and the shared memory of the compiled code, tells how well latency can be hidden.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from saffron_kernels.binary import Binary
from saffron_kernels.budget import Table, read_recorded
from saffron_kernels.cards import CARDS, MULTIPROCESSORS, Capability, Card, architecture
from saffron_kernels.problem import Problem
from saffron_kernels.problems import problems

TITLE = "Predicted from data sheets and compiled code; nothing here was measured."

_WARP = 32
_PARTITIONS = 4
"""Parts of a multiprocessor, each with a quarter of its registers and warps."""
_REGISTERS_OF_PARTITION = 65536 // _PARTITIONS
_REGISTER_UNIT = 256
"""Registers are given out to a warp in multiples of this many."""
_SHARED_UNIT = 128
_SHARED_OF_SYSTEM = 1024
"""Bytes of shared memory that the system takes of each block's share."""


class Occupancy(NamedTuple):
    """How much of one kernel a multiprocessor holds at once.

    Attributes:
        blocks: programs that are resident.
        fraction: of the warps that could be.
        limit: what keeps more blocks out: "warps", "blocks", "registers" or "shared memory".
    """

    blocks: int
    fraction: float
    limit: str


@dataclass(frozen=True)
class Prediction:
    """One problem on one card.

    Attributes:
        problem: what is computed.
        card: where.
        occupancy: of its multiprocessors.
        memory: seconds that memory needs at the least.
        arithmetic: seconds that the arithmetic needs at the least, the card's multiprocessors having as equal a number
            of programs as the grid allows.
    """

    problem: Problem
    card: Card
    occupancy: Occupancy
    memory: float
    arithmetic: float

    @property
    def seconds(self) -> float:
        """The bound: no run is faster."""
        return max(self.memory, self.arithmetic)


def occupancy(capability: Capability, *, warps: int, registers: int, shared: int) -> Occupancy:
    """How many blocks a multiprocessor holds, by the rules of NVIDIA's occupancy calculator.

    Args:
        capability: compute capability, 8.0 to 9.0.
        warps: of a block.
        registers: of a thread.
        shared: bytes of a block.

    Raises:
        ValueError: not even one block fits.
    """
    limits = MULTIPROCESSORS[capability]
    of_warp = _round_up(registers * _WARP, _REGISTER_UNIT)
    warps_by_registers = _REGISTERS_OF_PARTITION // of_warp * _PARTITIONS
    blocks_by = {
        "warps": limits.warps // warps,
        "blocks": limits.blocks,
        "registers": warps_by_registers // warps,
        "shared memory": limits.shared // _round_up(shared + _SHARED_OF_SYSTEM, _SHARED_UNIT),
    }
    limit = min(blocks_by, key=blocks_by.__getitem__)
    blocks = blocks_by[limit]
    if blocks == 0:
        raise ValueError(
            f"no block fits into a multiprocessor of {architecture(capability)}: its {limit} do not suffice"
        )
    return Occupancy(blocks, blocks * warps / limits.warps, limit)


def predict(problem: Problem, card: Card, binary: Binary) -> Prediction | None:
    """The bound of one problem; None where the card has no unit that does such arithmetic."""
    if problem.unit not in card.peaks:
        return None
    busiest = -(-binary.programs // card.multiprocessors)
    evenly = binary.programs / card.multiprocessors
    return Prediction(
        problem,
        card,
        occupancy(card.capability, warps=binary.warps, registers=binary.registers, shared=binary.shared),
        memory=problem.bytes / card.bandwidth,
        arithmetic=problem.flops / card.peaks[problem.unit] * busiest / evenly,
    )


def predictions(table: Table, of: Mapping[str, Problem], cards: Sequence[Card] = CARDS) -> list[Prediction]:
    """Those of all problems on all cards that can run them."""
    found = []
    for name, row in table.items():
        for card in cards:
            binary = row[architecture(card.capability)]
            prediction = predict(of[name], card, binary) if isinstance(binary, Binary) else None
            if prediction is not None:
                found.append(prediction)
    return found


def markdown(rows: Iterable[Prediction]) -> str:
    """The predictions as a table."""
    lines = [
        "| problem | card | MB | Gop | unit | at least, µs | by | blocks/SM | occupancy | limited by |",
        "|---|---|---:|---:|---|---:|---|---:|---:|---|",
    ]
    for row in rows:
        problem, held = row.problem, row.occupancy
        by = "memory" if row.memory >= row.arithmetic else "arithmetic"
        work = f"{problem.bytes / 1e6:.4g} | {problem.flops / 1e9:.4g} | {problem.unit}"
        bound = f"{row.seconds * 1e6:.3g} | {by} | {held.blocks} | {held.fraction:.0%} | {held.limit}"
        lines.append(f"| {problem.name} | {row.card.name} | {work} | {bound} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m saffron_kernels.roofline", description=__doc__.splitlines()[0])
    parser.parse_args(arguments)
    _, table = read_recorded()
    sys.stdout.write(f"{TITLE}\n\n{markdown(predictions(table, problems()))}")
    return 0


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


if __name__ == "__main__":
    sys.exit(main())
