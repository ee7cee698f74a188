"""An op is left out only where nothing would see it: no trace, no gradient, no other mode of torch."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from saffron_kernels.eager import on_cpu
from saffron_kernels.quantize_per_token import quantize_per_token


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


def test_no_fake_tensor_does():
    with FakeTensorMode():
        assert not on_cpu(torch.ones(2))


def test_a_trace_holds_the_op():
    graph = make_fx(quantize_per_token)(torch.ones(2, 4))
    assert "saffron.quantize_per_token" in graph.code
