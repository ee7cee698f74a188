"""GPTQ's column loop on the CPU beside the same loop in eager torch, column after column, as peers run it.

    python benchmarks/kernels/gptq_block.py

Blocks of 128 columns in groups of 128, symmetric int4. Ours is given weights column after column in memory, as the
quantizer has them, and the eager loop row after row, as peers have them; memory is kept as the quantizer keeps it.
Wanted: at least 10 times as fast. Results are equal to the bit, which is checked. The machine must have nothing else to
do.
"""

import torch
from contest import arguments, compare, header, machine

from saffron_kernels.gptq_block import gptq_block, gptq_block_reference
from saffron_quantizer.memory import keep_memory_small, reuse_memory

COLUMNS = 128
ROWS = (256, 1024, 4096, 14336)


def main() -> None:
    """Print a line for each number of rows."""
    args = arguments(__doc__.splitlines()[0], rounds=15).parse_args()
    keep_memory_small()
    reuse_memory()
    print(machine(args.clock))
    print(f"{'rows':>6} {header('eager')}")
    for rows in ROWS:
        W = torch.randn(1, rows, COLUMNS)
        U = torch.eye(COLUMNS)[None] + 0.1 * torch.randn(1, COLUMNS, COLUMNS).triu(1)
        scale = W.abs().amax(dim=2, keepdim=True) / 7.5
        given = (U, scale, None, torch.zeros(1, COLUMNS, dtype=torch.int32), -8, 7)
        by_columns = W.mT.contiguous().mT
        pairs = zip(gptq_block(by_columns, *given), gptq_block_reference(W, *given), strict=True)
        assert all(torch.equal(got, wanted) for got, wanted in pairs)
        ratio = compare(lambda: gptq_block(by_columns, *given), lambda: gptq_block_reference(W, *given), args)  # noqa: B023 - called at once
        print(f"{rows:6} {ratio}")


if __name__ == "__main__":
    main()
