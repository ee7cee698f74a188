r"""The raw sum of a Hessian on the CPU beside one plain float32 product X.T @ X of the same tokens, as peers have it.

    python benchmarks/kernels/hessian.py
    NUMBA_CPU_NAME=znver3 NUMBA_CPU_FEATURES=+avx2,+fma,+f16c ATEN_CPU_CAPABILITY=avx2 \
        python benchmarks/kernels/hessian.py

The second line has ours do as on a processor with AVX2 alone; MKL can not be told. Wanted: at least 1.6 times as fast.
The other way is given tokens that are float32 already. The machine must have nothing else to do, or see `--clock`.
"""

import argparse

import torch
from contest import arguments, compare, header, machine

from saffron_kernels.hessian import hessian

SHAPES = ((2048, 640), (2048, 2048), (2048, 4096))
"""Tokens and columns: what Gemma 3 270M, Gemma 3 4B's attention and Llama-3-8B read, or about so."""
DTYPES = (torch.float32, torch.bfloat16)


def main() -> None:
    """Print a line for each shape and type of the tokens."""
    args = arguments(__doc__.splitlines()[0], rounds=9, calls=2).parse_args()
    print(machine(args.clock))
    print(f"{'tokens':>6} {'columns':>7} {'type':>8} {header('plain')}")
    for tokens, columns in SHAPES:
        for dtype in DTYPES:
            print(line(torch.randn(tokens, columns).to(dtype), args), flush=True)


def line(X: torch.Tensor, args: argparse.Namespace) -> str:
    """Measure one problem."""
    (tokens, columns), X_float = X.shape, X.float()
    H, plain = torch.zeros(columns, columns), torch.zeros(columns, columns)
    compared = compare(lambda: hessian(X, H), lambda: plain.addmm_(X_float.T, X_float), args)
    return f"{tokens:6} {columns:7} {str(X.dtype).removeprefix('torch.'):>8} {compared}"


if __name__ == "__main__":
    main()
