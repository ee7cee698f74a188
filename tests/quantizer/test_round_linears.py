"""Linears that read one input: how they are rounded together, and what is told of each."""

import pytest
import torch

from saffron_api.candidate import ActOrder, ScaleSearch
from saffron_kernels.hessian import hessian_finish
from saffron_quantizer.algorithms.quantized import Grid
from saffron_quantizer.round_linears import awq_linears, channel_ratio, gptq_linears, rtn_linears

W4 = Grid(4, 32, torch.float32)


def inputs(seed, columns=64):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) * torch.rand(columns, generator=generator).mul(3).exp()
    X = torch.randn(200, columns, generator=generator) @ mix
    weights = {name: torch.randn(rows, columns, generator=generator) for name, rows in (("q", 5), ("k", 2))}
    return weights, hessian_finish(X.T @ X, 200)


def lost(rounded, weights, H):
    """tr(E H Eᵀ) of each linear."""
    errors = [(weights[each.note.name] - each.quantized.dequantize()).double() for each in rounded]
    return [float((E @ H.double() * E).sum()) for E in errors]


@pytest.mark.parametrize("seed", range(6))
def test_by_itself_gptq_takes_the_order_that_leaves_less_error(seed):
    weights, H = inputs(seed)
    found = {order: gptq_linears(weights, H, W4, order, None) for order in (*ActOrder, None)}
    total = {order: sum(lost(rounded, weights, H)) for order, rounded in found.items()}
    better = min((ActOrder.STATIC, ActOrder.NONE), key=total.__getitem__)
    assert [each.note for each in found[ActOrder.AUTO]] == [each.note for each in found[better]]
    assert [each.note for each in found[None]] == [each.note for each in found[better]]
    assert {each.note.act_order for each in found[None]} == {better.value}
    for ours, expected in zip(found[ActOrder.AUTO], found[better], strict=True):
        assert torch.equal(ours.quantized.codes, expected.quantized.codes)


def test_the_error_that_is_told_is_that_share_of_the_output():
    weights, H = inputs(7)
    rounded = gptq_linears(weights, H, W4, None, None)
    for each, error in zip(rounded, lost(rounded, weights, H), strict=True):
        W = weights[each.note.name].double()
        # What is told comes from sums of float32 squares.
        assert each.note.relative_error == pytest.approx(error / float((W @ H.double() * W).sum()), rel=1e-3)


def test_an_output_of_zero_has_no_error():
    rounded = gptq_linears({"q": torch.zeros(3, 64)}, inputs(0)[1], W4, None, None)
    assert rounded[0].note.relative_error == 0


@pytest.mark.parametrize(
    ("search", "told", "method"),
    [
        (None, "MSE", "RTN"),
        (ScaleSearch.MIN_MAX, "MinMax", "RTN"),
        (ScaleSearch.HESSIAN, "Hessian", "RTN"),
        (None, "Hessian", "GPTQ"),
        (ScaleSearch.MIN_MAX, "MinMax", "GPTQ"),
        (ScaleSearch.MSE, "MSE", "GPTQ"),
    ],
)
def test_the_scale_search_that_is_told_is_the_one_that_was_used(search, told, method):
    weights, H = inputs(1)
    if method == "RTN":
        rounded = rtn_linears(weights, W4, search, squares=H.diagonal())
    else:
        rounded = gptq_linears(weights, H, W4, ActOrder.STATIC, search)
    assert [(each.note.name, each.note.scale_search) for each in rounded] == [("q", told), ("k", told)]


def test_scales_weighed_by_activity_are_refused_without_it():
    with pytest.raises(ValueError, match="needs that of each input"):
        rtn_linears(inputs(0)[0], W4, ScaleSearch.HESSIAN)


CHANNELS = {
    "one that towers": ([4.0, 100.0, 1.0, 9.0, 4.0], 5.0),
    "all alike": ([2.0, 2.0, 2.0], 1.0),
    "some that are dead": ([0.0, 1.0, 4.0], 2.0),
    "most of them dead": ([0.0, 0.0, 4.0], None),
}


@pytest.mark.parametrize(("squares", "expected"), CHANNELS.values(), ids=CHANNELS)
def test_the_largest_channel_over_the_median_one_of(squares, expected):
    assert channel_ratio(torch.tensor(squares)) == expected


def test_every_method_that_reads_data_tells_how_its_channels_differ():
    weights, H = inputs(2)
    gram = torch.stack([H[:32, :32], H[32:, 32:]])
    rounded = {
        "RTN": rtn_linears(weights, W4, None, squares=H.diagonal()),
        "AWQ": awq_linears(weights, gram, W4, unclipped=("k",)),
        "GPTQ": gptq_linears(weights, H, W4, None, None),
    }
    told = {method: {each.note.largest_channel_ratio for each in found} for method, found in rounded.items()}
    assert told == {method: {channel_ratio(H.diagonal())} for method in rounded}
    assert {each.note.largest_channel_ratio for each in rtn_linears(weights, W4, None)} == {None}
