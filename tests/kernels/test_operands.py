"""What lies on another device is refused, by every op: torch would ask for the shape of the result alone."""

import pytest
import torch

from saffron_kernels.awq_loss import awq_loss
from saffron_kernels.dequantize import dequantize
from saffron_kernels.fp8_gemm import fp8_gemm
from saffron_kernels.gptq_block import gptq_block
from saffron_kernels.hessian import hessian
from saffron_kernels.nn import Fp8Linear, Int8Linear
from saffron_kernels.quantize_pack import FP8, quantize_fp8, quantize_pack
from saffron_kernels.quantize_per_token import quantize_per_token_fp8
from saffron_kernels.rms_norm import rms_norm
from saffron_kernels.scale_search import scale_search
from saffron_kernels.w4a16_gemm import repack_w4a16, w4a16_gemm
from saffron_kernels.w8a8_gemm import w8a8_gemm, w8a8_linear

ROWS, COLUMNS, GROUPS, TOKENS = 8, 16, 2, 3
W, SCALE, ZERO = torch.ones(ROWS, COLUMNS), torch.ones(ROWS, GROUPS), torch.zeros(ROWS, GROUPS, dtype=torch.int8)
X, CODES, OF_TOKENS, OF_ROWS = W[:TOKENS], W.to(torch.int8), torch.ones(TOKENS, 1), torch.ones(ROWS, 1)
SEARCH = {"bits": 4, "group_size": COLUMNS, "scale_dtype": torch.bfloat16}
INT4 = repack_w4a16(torch.zeros(ROWS, COLUMNS // 8, dtype=torch.int32), OF_ROWS, None, COLUMNS)
ORDER = torch.zeros(1, COLUMNS, dtype=torch.int32)
OPS = {
    "awq_loss": (lambda *given: awq_loss(*given, **SEARCH), (W, torch.ones(COLUMNS), torch.eye(COLUMNS))),
    "dequantize": (lambda *given: dequantize(*given, COLUMNS), (CODES, SCALE, ZERO)),
    "gptq_block": (
        lambda *given: gptq_block(*given, -8, 7),
        (W[None], torch.eye(COLUMNS)[None], SCALE[None], SCALE[None], ORDER),
    ),
    "hessian": (hessian, (X, torch.zeros(COLUMNS, COLUMNS))),
    "quantize_fp8": (quantize_fp8, (W, OF_ROWS)),
    "quantize_pack": (lambda *given: quantize_pack(*given, 4), (W, SCALE, ZERO)),
    "rms_norm": (lambda *given: rms_norm(*given, 1e-6), (X, torch.ones(COLUMNS))),
    "scale_search": (
        lambda W, importance: scale_search(W, (1.0,), importance, **SEARCH),
        (W, torch.ones(COLUMNS)),
    ),
    "fp8_gemm": (
        lambda *given: fp8_gemm(*given, out_dtype=torch.float32),
        (X.to(FP8), OF_TOKENS, W.to(FP8), OF_ROWS, torch.ones(ROWS)),
    ),
    "quantize_per_token_fp8": (quantize_per_token_fp8, (X, torch.ones(1))),
    "w4a16_gemm": (
        lambda x, bias: w4a16_gemm(x, INT4, COLUMNS, bias),
        (X, torch.ones(ROWS)),
    ),
    "w8a8_linear": (w8a8_linear, (X, CODES, OF_ROWS, torch.ones(ROWS))),
    "w8a8_gemm": (
        lambda *given: w8a8_gemm(*given, out_dtype=torch.float32),
        (CODES[:TOKENS], OF_TOKENS, CODES, OF_ROWS, torch.ones(ROWS)),
    ),
}


@pytest.mark.parametrize(("name", "place"), [(name, place) for name, op in OPS.items() for place in range(len(op[1]))])
def test_no_operand_may_lie_elsewhere(name, place):
    op, operands = OPS[name]
    op(*operands)
    with pytest.raises(ValueError, match=r"tensors have to be on one device, not on (cpu and meta|meta and cpu)"):
        op(*(each.to("meta") if number == place else each for number, each in enumerate(operands)))


@pytest.mark.parametrize("layer", [Fp8Linear, Int8Linear])
def test_a_layer_without_its_tensors_computes_nothing(layer):
    with pytest.raises(ValueError, match="tensors have to be on one device"):
        layer(COLUMNS, ROWS, bias=False)(X)
