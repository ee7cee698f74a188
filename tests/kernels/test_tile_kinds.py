"""Each processor has the fastest tiles whose instructions it has, for the numbers that they multiply."""

import pytest
import torch

from saffron_kernels import tile_kinds
from saffron_kernels.tile_kinds import AVX2, AVX512, AVX512_BF16, tile_kind

V3 = {"avx2", "fma", "f16c"}
V4 = V3 | {"avx512f"}


@pytest.mark.parametrize(
    ("features", "of_bfloat16", "of_float16", "of_float32"),
    [
        (V4 | {"avx512vnni", "avx512bf16"}, AVX512_BF16, AVX512, AVX512),
        (V4 | {"avx512vnni"}, AVX512, AVX512, AVX512),
        (V3, AVX2, AVX2, AVX2),
        (V3 - {"f16c"}, None, None, None),
        (set(), None, None, None),
    ],
    ids=["AVX512-BF16", "AVX512", "AVX2", "AVX2 without float16", "none of them"],
)
def test_the_tiles_of_a_processor(monkeypatch, features, of_bfloat16, of_float16, of_float32):
    monkeypatch.setattr(tile_kinds, "features", lambda: frozenset(features))
    kinds = [tile_kind(dtype) for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)]
    assert kinds == [of_bfloat16, of_float16, of_float32, None]
