r"""W8A8 on the CPU, quantizing the activations included, beside torch's bare integer product and its float linears.

    python benchmarks/kernels/w8a8_gemm.py
    NUMBA_CPU_NAME=znver3 NUMBA_CPU_FEATURES=+avx2,+fma,+f16c ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 \
        python benchmarks/kernels/w8a8_gemm.py

The second line has everything do as on a processor with AVX2 alone, but for MKL's float32. Wanted of the whole: with
VNNI at least 0.88 times the speed of `torch._int_mm` and 1.5 times that of the faster float linear; without, where
`_int_mm` is slow and inexact, 0.9 times that of the faster float linear. The machine must have nothing else to do.

Under q stands what quantizing the activations alone would take of the whole, which `_int_mm` is spared: the fewer
output channels share it, the more it is.
"""

import argparse
import statistics

import torch
from contest import arguments, contest, fastest, machine, ratio
from torch.nn.functional import linear

from saffron_kernels.quantize_per_token import quantize_per_token
from saffron_kernels.w8a8_gemm import w8a8_linear
from saffron_kernels.w8a8_gemm_cpu import exact_way, int_mm_gemm, is_exact

SHAPES = (
    *((4096, 4096), (14336, 4096), (4096, 14336), (1024, 4096)),
    *((2048, 640), (640, 2048), (1024, 640), (640, 1024), (256, 640)),
)
"""Output and input channels: Llama-3-8B's linears, and Gemma 3 270M's."""
FLOATS = ("bfloat16", "float32")


def main() -> None:
    """Print a line for each shape and number of tokens."""
    parser = arguments(__doc__.splitlines()[0], rounds=9, calls=2)
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="how many of the shapes")
    parser.add_argument("--first", type=int, default=0, help="which of the shapes is the first")
    args = parser.parse_args()
    print(machine(args.clock))
    print(f"ours is {exact_way().__name__}; torch._int_mm is {'exact' if is_exact(int_mm_gemm) else 'INEXACT'} here")
    print(f"{'M':>5} {'N':>6} {'K':>6} {'ours':>9} {'q':>4} {'GOP/s':>6}   the time of ... over ours, with quartiles")
    for N, K in SHAPES[args.first :][: args.shapes]:
        for M in args.tokens:
            print(line(M, N, K, args), flush=True)


@torch.inference_mode()
def line(M: int, N: int, K: int, args: argparse.Namespace) -> str:
    """Measure one problem."""
    weight, scale = torch.randint(-127, 128, (N, K), dtype=torch.int8), torch.rand(N, 1) / 100
    x, w = torch.randn(M, K), torch.randn(N, K)
    x_bfloat16, w_bfloat16, codes = x.bfloat16(), w.bfloat16(), quantize_per_token(x)[0]
    ways = {
        "ours": lambda _: w8a8_linear(x_bfloat16, weight, scale),
        "_int_mm": lambda _: torch._int_mm(codes, weight.T),  # noqa: SLF001 - its only name
        "bfloat16": lambda _: linear(x_bfloat16, w_bfloat16),
        "float32": lambda _: linear(x, w),
        "quantizing": lambda _: quantize_per_token(x_bfloat16),
    }
    taken = contest(ways, args.rounds, args.calls, args.clock)
    baseline = fastest(taken, FLOATS)
    median, quantizing = (statistics.median(taken[way]) for way in ("ours", "quantizing"))
    return (
        f"{M:5} {N:6} {K:6} {median * 1e3:6.2f} ms {quantizing / median:4.0%} {2e-9 * M * N * K / median:6.0f}   "
        f"_int_mm {ratio(taken['ours'], taken['_int_mm'])}   {baseline} {ratio(taken['ours'], taken[baseline])}"
    )


if __name__ == "__main__":
    main()
