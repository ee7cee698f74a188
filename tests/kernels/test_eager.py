"""An op is left out only where nothing would see it: no trace, no gradient, no other mode of torch."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from saffron_kernels.eager import on_cpu
from saffron_kernels.quantize_per_token import quantize_per_token
from saffron_kernels.w4a16_gemm import repack_w4a16, w4a16_gemm
from saffron_kernels.w8a8_gemm import w8a8_gemm, w8a8_linear


def test_a_plain_tensor_takes_the_short_way():
    assert on_cpu(torch.ones(2))


@pytest.mark.parametrize(
    "x", [torch.ones(2, requires_grad=True), torch.ones(2, device="meta")], ids=["gradient", "meta"]
)
def test_others_do_not(x):
    assert not on_cpu(x)


def test_a_gradient_that_nobody_wants_is_in_nobodys_way():
    with torch.no_grad():
        assert on_cpu(torch.ones(2, requires_grad=True))


def test_a_gradient_of_another_operand_does_not():
    assert not on_cpu(torch.ones(2), None, torch.ones(2, requires_grad=True))
    with torch.no_grad():
        assert on_cpu(torch.ones(2), None, torch.ones(2, requires_grad=True))


CODES, TOKENS, SCALE, BIAS = torch.ones(2, 128, dtype=torch.int8), torch.ones(2, 128), torch.ones(2, 1), torch.ones(2)
INT4 = repack_w4a16(torch.zeros(2, 16, dtype=torch.int32), SCALE, None, 128)
PRODUCTS = {
    "w8a8_gemm": (lambda s, w_s, b: w8a8_gemm(CODES, s, CODES, w_s, b, out_dtype=torch.float32), (SCALE, SCALE, BIAS)),
    "w8a8_linear": (lambda x, w_s, b: w8a8_linear(x, CODES, w_s, b), (TOKENS, SCALE, BIAS)),
    "w4a16_gemm": (lambda x, b: w4a16_gemm(x, INT4, 128, b), (TOKENS, BIAS)),
}


@pytest.mark.parametrize(
    ("name", "place"), [(name, at) for name, (_, given) in PRODUCTS.items() for at in range(len(given))]
)
def test_a_gradient_that_no_op_has_is_missed_when_it_is_asked_for(name, place):
    product, operands = PRODUCTS[name]
    y = product(*(each.clone().requires_grad_(number == place) for number, each in enumerate(operands)))
    with pytest.raises(RuntimeError, match="no autograd formula"):
        y.sum().backward()


def test_no_fake_tensor_does():
    with FakeTensorMode():
        assert not on_cpu(torch.ones(2))


def test_a_trace_holds_the_op():
    graph = make_fx(quantize_per_token)(torch.ones(2, 4))
    assert "saffron.quantize_per_token" in graph.code
