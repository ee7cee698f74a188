"""Rounding and packing on the CPU beside the same in torch, pass after pass over the whole matrix; and back again.

    python benchmarks/kernels/quantize_pack.py

A matrix of 4096 x 4096 in bfloat16, int4 in groups of 128. Results are equal to the bit, which is checked. The machine
must have nothing else to do.
"""

import torch
from contest import arguments, compare, header, machine

from saffron_kernels.dequantize import dequantize, dequantize_reference, unpack, unpack_reference
from saffron_kernels.quantize_pack import Layout, pack, pack_reference, quantize_pack, quantize_pack_reference

ROWS, COLUMNS, GROUP, BITS = 4096, 4096, 128, 4


def main() -> None:
    """Print a line for each op and layout."""
    args = arguments(__doc__.splitlines()[0], rounds=9).parse_args()
    W = torch.randn(ROWS, COLUMNS, dtype=torch.bfloat16)
    scale = W.float().reshape(ROWS, -1, GROUP).abs().amax(dim=2).mul(2 / 15).bfloat16()
    codes = quantize_pack(W, scale, None, BITS)
    shape = (ROWS, COLUMNS)
    print(machine(args.clock))
    print(f"{'':38} {header('torch')}")
    for layout in Layout:
        words = pack(codes, BITS, layout)
        in_layout = {"bits": BITS, "layout": layout}
        contests = {
            "quantize_pack": (
                lambda layout=layout: quantize_pack(W, scale, None, BITS, layout),
                lambda layout=layout: quantize_pack_reference(W, scale, None, BITS, layout),
            ),
            "pack": (
                lambda layout=layout: pack(codes, BITS, layout),
                lambda layout=layout: pack_reference(codes, BITS, layout),
            ),
            "unpack": (
                lambda layout=layout, words=words: unpack(words, shape, BITS, layout),
                lambda layout=layout, words=words: unpack_reference(words, shape, BITS, layout),
            ),
            "dequantize": (
                lambda words=words, said=in_layout: dequantize(words, scale, None, COLUMNS, **said),
                lambda words=words, said=in_layout: dequantize_reference(words, scale, None, COLUMNS, **said),
            ),
        }
        for name, (ours, other) in contests.items():
            if layout is Layout.CODES and name.endswith("pack") and name != "quantize_pack":
                continue  # codes as they are
            assert torch.equal(ours(), other())
            print(f"{f'{name}, {layout.value}':38} {compare(ours, other, args)}", flush=True)


if __name__ == "__main__":
    main()
