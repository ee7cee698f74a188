"""References make what is new where their inputs are: on the meta device nothing else fits together."""

import pytest
import torch

from saffron_kernels.attention import causal_attention_reference
from saffron_kernels.awq_loss import awq_loss_reference
from saffron_kernels.dequantize import dequantize_reference, unpack_reference
from saffron_kernels.fp8_gemm import fp8_gemm_reference
from saffron_kernels.gptq_block import gptq_block_reference
from saffron_kernels.hessian import hessian_reference
from saffron_kernels.quantize_pack import (
    Layout,
    pack_reference,
    quantize_fp8_reference,
    quantize_pack_reference,
)
from saffron_kernels.quantize_per_token import quantize_per_token_fp8_reference, quantize_per_token_reference
from saffron_kernels.scale_search import scale_search_reference
from saffron_kernels.w4a16_gemm import w4a16_gemm_reference
from saffron_kernels.w8a8_gemm import w8a8_gemm_reference

ROWS, COLUMNS, GROUPS, TOKENS = 8, 16, 2, 3
FP8 = torch.float8_e4m3fn


def on(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device="meta")


W, SCALE, ZERO = on(ROWS, COLUMNS), on(ROWS, GROUPS), on(ROWS, GROUPS, dtype=torch.int8)
X, CODES, OF_TOKENS, OF_ROWS = on(TOKENS, COLUMNS), on(ROWS, COLUMNS, dtype=torch.int8), on(TOKENS, 1), on(ROWS, 1)
HEADS = on(1, 4, 5, 8)
BLOCK = on(1, ROWS, COLUMNS)
PACKED = {
    Layout.CODES: CODES,
    Layout.COMPRESSED_TENSORS: on(ROWS, COLUMNS // 8, dtype=torch.int32),
    Layout.GPTQ: on(COLUMNS // 8, ROWS, dtype=torch.int32),
    Layout.AUTOAWQ: on(COLUMNS, ROWS // 8, dtype=torch.int32),
}
SEARCH = {"bits": 4, "group_size": COLUMNS // GROUPS, "scale_dtype": torch.bfloat16}
CASES = {
    "attention": lambda: causal_attention_reference(HEADS, HEADS[:, :2], HEADS[:, :2], 0.5, 3),
    "awq_loss": lambda: awq_loss_reference(W, on(COLUMNS), on(COLUMNS, COLUMNS), **SEARCH, symmetric=False),
    **{
        f"{what} {layout.value}": do
        for layout, packed in PACKED.items()
        for what, do in {
            "pack": lambda layout=layout: pack_reference(CODES, 4, layout),
            "quantize_pack": lambda layout=layout: quantize_pack_reference(W, SCALE, ZERO, 4, layout),
            "unpack": lambda layout=layout, packed=packed: unpack_reference(packed, (ROWS, COLUMNS), 4, layout),
            "dequantize": lambda layout=layout, packed=packed: dequantize_reference(
                packed, SCALE, ZERO, COLUMNS, bits=4, layout=layout
            ),
        }.items()
    },
    "quantize_fp8": lambda: quantize_fp8_reference(W, OF_ROWS),
    "quantize_per_token": lambda: quantize_per_token_reference(X),
    "quantize_per_token_fp8": lambda: quantize_per_token_fp8_reference(X),
    "quantize_per_token_fp8 in a scale": lambda: quantize_per_token_fp8_reference(X, on(1)),
    "scale_search": lambda: scale_search_reference(W, (1.0, 0.9), on(COLUMNS), **SEARCH),
    "scale_search with zero points": lambda: scale_search_reference(W, (1.0,), **SEARCH, symmetric=False, exponent=2.5),
    "w4a16_gemm": lambda: w4a16_gemm_reference(
        X, PACKED[Layout.COMPRESSED_TENSORS], SCALE, on(ROWS // 8, GROUPS, dtype=torch.int32), 8, bias=on(ROWS)
    ),
    "w8a8_gemm": lambda: w8a8_gemm_reference(
        on(TOKENS, COLUMNS, dtype=torch.int8), OF_TOKENS, CODES, OF_ROWS, on(ROWS), out_dtype=torch.bfloat16
    ),
    "fp8_gemm": lambda: fp8_gemm_reference(
        on(TOKENS, COLUMNS, dtype=FP8), OF_TOKENS, on(ROWS, COLUMNS, dtype=FP8), OF_ROWS, out_dtype=torch.bfloat16
    ),
    # Which group a column has is read as a number, so it has to be one.
    "gptq_block": lambda: gptq_block_reference(
        BLOCK, on(1, COLUMNS, COLUMNS), SCALE[None], None, torch.zeros(1, COLUMNS, dtype=torch.int32), -8, 7
    ),
}


@pytest.mark.parametrize("reference", CASES.values(), ids=CASES)
def test_all_that_comes_back_is_on_the_device_of_the_inputs(reference):
    result = reference()
    tensors = [result] if isinstance(result, torch.Tensor) else [each for each in result if each is not None]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_a_hessian_is_added_to_on_the_device_of_the_inputs():
    hessian_reference(X, on(COLUMNS, COLUMNS))
