"""W4A16 on the CPU beside torch's int4 kernel and its float linears, with weights that come from memory each time.

    python benchmarks/kernels/w4a16_gemm.py
    python benchmarks/kernels/w4a16_gemm.py --tokens 1 2 4 8 16 32 64 128 --shapes 1

Each way goes round copies of its weights that together are several times the last cache. Wanted for one token: at least
the speed of `_weight_int4pack_mm_for_cpu` and twice that of the faster float linear. The share is of the speed at which
the same threads read memory without doing anything with it. The machine must have nothing else to do.
"""

import argparse
from functools import cache

import numpy as np
import torch
from contest import arguments, contest, fastest, machine, ratio
from numba import carray
from torch import Tensor
from torch.nn.functional import linear

from saffron_kernels import openmp
from saffron_kernels.compiled_floats import pointer
from saffron_kernels.openmp import FIRST, ITEMS, take
from saffron_kernels.w4a16_gemm import W4A16Weight, repack_w4a16, w4a16_gemm

SHAPES = (
    *((4096, 4096), (14336, 4096), (4096, 14336), (1024, 4096)),
    *((2048, 640), (640, 2048), (1024, 640), (640, 1024), (256, 640)),
)
"""Output and input channels: Llama-3-8B's linears, and Gemma 3 270M's."""
FLOATS = ("bfloat16", "float32")
GROUP = 128
PART = 1 << 17
"""Bytes that a thread reads at once."""


def main() -> None:
    """Print how fast memory is read, and a line for each shape and number of tokens."""
    parser = arguments(__doc__.splitlines()[0], rounds=11, calls=8)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1])
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="how many of the shapes")
    parser.add_argument("--first", type=int, default=0, help="which of the shapes is the first")
    parser.add_argument("--megabytes", type=int, default=160, help="what the copies of each way's weights take")
    args = parser.parse_args()
    print(machine(args.clock))
    print(
        f"{'M':>5} {'N':>6} {'K':>6} {'ours':>9} {'GB/s':>5} {'share':>5}   the time of ... over ours, with quartiles"
    )
    for N, K in SHAPES[args.first :][: args.shapes]:
        weights = Weights(N, K, args.megabytes << 20)
        for M in args.tokens:
            print(line(M, weights, args), flush=True)


class Weights:
    """Copies of one layer's weights, random, in each form; and as many bytes of nothing in particular."""

    def __init__(self, N: int, K: int, total: int) -> None:
        self.N, self.K = N, K

        def copies(size: float) -> range:
            return range(max(2, int(total / (N * K * size))))

        scale = (torch.rand(N, K // GROUP) / 10).bfloat16()
        both = torch.stack([scale.T, torch.zeros_like(scale.T)], dim=2)
        self.ours: list[W4A16Weight] = []
        self.theirs: list[tuple[Tensor, int, Tensor]] = []
        for _ in copies(0.5):
            codes = torch.randint(16, (N, K), dtype=torch.int32)
            shifted = codes.view(N, -1, 8) << torch.arange(0, 32, 4, dtype=torch.int32)
            self.ours.append(repack_w4a16(shifted.sum(dim=2, dtype=torch.int32), scale, None, K))
            packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)  # noqa: SLF001 - its only name
            self.theirs.append((packed, GROUP, both.clone(memory_format=torch.contiguous_format)))
        self.bfloat16 = [torch.randn(N, K).bfloat16() for _ in copies(2)]
        self.float32 = [torch.randn(N, K) for _ in copies(4)]
        self.memory = np.ones(total // 8, np.int64)


@torch.inference_mode()
def line(M: int, weights: Weights, args: argparse.Namespace) -> str:
    """Measure one problem."""
    N, K = weights.N, weights.K
    x = torch.randn(M, K)
    x_bfloat16, int4 = x.bfloat16(), torch.ops.aten._weight_int4pack_mm_for_cpu  # noqa: SLF001 - as above
    size = N * K // 2 + N * K // GROUP * 2
    parts = len(weights.memory) * 8 // size
    ways = {
        "ours": lambda i: w4a16_gemm(x_bfloat16, weights.ours[i % len(weights.ours)], GROUP),
        "int4pack": lambda i: int4(x_bfloat16, *weights.theirs[i % len(weights.theirs)]),
        "bfloat16": lambda i: linear(x_bfloat16, weights.bfloat16[i % len(weights.bfloat16)]),
        "float32": lambda i: linear(x, weights.float32[i % len(weights.float32)]),
        "read": lambda i: read(weights.memory, i % parts * size, size),
    }
    for number in range(len(weights.ours)):
        ways["ours"](number)  # as a model's first token does, after which a weight keeps how it is multiplied
    taken = contest(ways, args.rounds, args.calls, args.clock)
    baseline = fastest(taken, FLOATS)
    median, reading = (sorted(taken[name])[args.rounds // 2] for name in ("ours", "read"))
    return (
        f"{M:5} {N:6} {K:6} {median * 1e3:6.2f} ms {size / median / 1e9:5.1f} {reading / median:5.0%}   "
        f"int4pack {ratio(taken['ours'], taken['int4pack'])}   {baseline} {ratio(taken['ours'], taken[baseline])}"
    )


def read(memory: np.ndarray, begin: int, size: int) -> None:
    """Read some bytes with all threads."""
    items = max(1, size // PART)
    sums = np.zeros(items, np.int64)
    openmp.run(read_loop(), items, memory.ctypes.data + begin // 8 * 8, size // items // 8, sums.ctypes.data)


@cache
def read_loop() -> openmp.Loop:
    """`sum_parts`, compiled."""
    return openmp.compile_loop(sum_parts)


def sum_parts(data: object) -> None:
    """Add up each part of the memory."""
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    sums = carray(pointer(a[FIRST + 2]), (a[ITEMS],), np.int64)
    item = take(a)
    while item < a[ITEMS]:
        part = carray(pointer(a[FIRST] + item * a[FIRST + 1] * 8), (a[FIRST + 1],), np.int64)
        total = np.int64(0)
        for i in range(part.size):
            total += part[i]
        sums[item] = total
        item = take(a)


if __name__ == "__main__":
    main()
