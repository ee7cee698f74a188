"""The raw sum of a Hessian on the CPU beside one plain float32 product X.T @ X of the same tokens, as peers have it.

    python benchmarks/kernels/hessian.py

Wanted: at least 1.6 times as fast. The other way is given tokens that are float32 already. The machine must have
nothing else to do.
"""

import argparse

import torch
from side_by_side import HEADER, compare, threads

from saffron_kernels.hessian import hessian

SHAPES = ((2048, 640), (2048, 2048), (2048, 4096))
"""Tokens and columns: what Gemma 3 270M, Gemma 3 4B's attention and Llama-3-8B read, or about so."""


def main() -> None:
    """Print a line for each shape and type of the tokens."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print(threads())
    print(f"{'tokens':>6} {'columns':>7} {'type':>8} {HEADER}")
    for tokens, columns in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            X = torch.randn(tokens, columns).to(dtype)
            X_float, H, plain = X.float(), torch.zeros(columns, columns), torch.zeros(columns, columns)
            ratio = compare(lambda: hessian(X, H), lambda: plain.addmm_(X_float.T, X_float), rounds)  # noqa: B023 - called at once
            print(f"{tokens:6} {columns:7} {str(dtype).removeprefix('torch.'):>8} {ratio}")


if __name__ == "__main__":
    main()
