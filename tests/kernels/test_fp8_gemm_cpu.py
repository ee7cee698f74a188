"""Codes are decoded exactly, so that only sums of float32 differ from the reference, in their order."""

import pytest
import torch

from saffron_kernels.fp8_gemm import fp8_gemm, fp8_gemm_reference


def test_every_code_is_decoded_to_its_number():
    every = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.float8_e4m3fn)
    one, ones = torch.ones(1, 1).to(torch.float8_e4m3fn), torch.ones(256, 1)
    y = fp8_gemm(one, torch.ones(1, 1), every[:, None], ones, out_dtype=torch.float32)
    assert torch.equal(y[0].nan_to_num(7e3), every.float().nan_to_num(7e3))


@pytest.mark.parametrize(("M", "N", "K"), [(1, 1, 1), (5, 513, 129), (17, 1100, 64)])
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_products_are_those_of_the_reference(M, N, K, out_dtype):
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(rows, K, generator=generator).to(torch.float8_e4m3fn) for rows in (M, N))
    scale, weight_scale = torch.rand(M, 1, generator=generator), torch.rand(N, 1, generator=generator)
    bias = torch.randn(N, generator=generator) if N % 2 else None
    ours = fp8_gemm(x, scale, w, weight_scale, bias, out_dtype=out_dtype)
    expected = fp8_gemm_reference(x, scale, w, weight_scale, bias, out_dtype=out_dtype)
    # Sums of up to 129 products in another order, and beside the middle of two numbers either is right.
    torch.testing.assert_close(ours, expected, rtol=2 * torch.finfo(out_dtype).eps, atol=1e-5)
