"""The search for scales on the CPU beside the same search in torch: for each factor some passes over the whole matrix.

    python benchmarks/kernels/scale_search.py

A matrix of bfloat16 in groups of 128, symmetric int4, or int8 with a scale a row. Scales are compared: torch sums a
group's errors in another order, so that one group in many thousands may take another factor. The machine must have
nothing else to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from contest import arguments, compare, header, machine
from torch import Tensor

from saffron_kernels.scale_search import candidates, code_range, scale_search

CLIPPING = tuple(1.0 - 0.02 * step for step in range(21))
STRETCHING = tuple(1.0 + 0.02 * step for step in range(8))


@dataclass(frozen=True)
class Case:
    """What is searched for."""

    name: str
    rows: int
    columns: int
    factors: Sequence[float]
    bits: int = 4
    group_size: int | None = 128
    symmetric: bool = True
    weighed: bool = False


CASES = (
    Case("21 factors", 2048, 640, CLIPPING),
    Case("21 factors, weighed", 2048, 640, CLIPPING, weighed=True),
    Case("21 factors, zero points", 2048, 640, CLIPPING, symmetric=False),
    Case("8 factors", 2048, 640, STRETCHING),
    Case("8 factors", 4096, 4096, STRETCHING),
    Case("8 factors, int8 a row", 4096, 4096, STRETCHING, bits=8, group_size=None),
)


def in_torch(W: Tensor, case: Case, importance: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scales and zero points, factor after factor."""
    low, high = code_range(case.bits)
    grouped = W.float().reshape(len(W), -1, case.group_size or case.columns)
    best, least = None, torch.full(grouped.shape[:2], torch.inf)
    for factor in case.factors:
        tried = candidates(grouped, (factor,), low, high, torch.bfloat16, symmetric=case.symmetric)
        scale, zero = tried.scale[0], tried.zero[0]
        codes = (grouped / scale.float()[:, :, None]).round_()
        if not case.symmetric:
            codes += zero[:, :, None]
        codes.clamp_(low, high)
        if not case.symmetric:
            codes -= zero[:, :, None]
        squared = codes.mul_(scale.float()[:, :, None]).sub_(grouped).square_()
        if importance is not None:
            squared.mul_(importance.reshape(1, *grouped.shape[1:]))
        error = squared.sum(dim=2)
        better = error < least
        least = torch.where(better, error, least)
        best = (scale, zero) if best is None else tuple(map(torch.where, [better] * 2, (scale, zero), best))
    assert best is not None
    return best[0], best[1]


def main() -> None:
    """Print a line for each case."""
    args = arguments(__doc__.splitlines()[0], rounds=15).parse_args()
    print(machine(args.clock))
    print(f"{'':38} {header('torch')}   other scales")
    for case in CASES:
        W = torch.randn(case.rows, case.columns, dtype=torch.bfloat16)
        importance = torch.rand(case.columns) if case.weighed else None

        def ours(case: Case = case, W: Tensor = W, importance: Tensor | None = importance) -> Tensor:
            return scale_search(
                W,
                case.factors,
                importance,
                bits=case.bits,
                group_size=case.group_size,
                scale_dtype=torch.bfloat16,
                symmetric=case.symmetric,
            ).scale

        def other(case: Case = case, W: Tensor = W, importance: Tensor | None = importance) -> Tensor:
            return in_torch(W, case, importance)[0]

        differ = int((ours() != other()).sum())
        name = f"{case.rows} x {case.columns}, {case.name}"
        print(f"{name:38} {compare(ours, other, args)}   {differ} of {ours().numel()}", flush=True)


if __name__ == "__main__":
    main()
