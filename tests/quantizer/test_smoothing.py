"""AWQ and SmoothQuant against their definitions, the fold, and the table of edges."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_quantizer.algorithms.awq import CLIPS, awq, clipped, group_gram
from saffron_quantizer.algorithms.fold import fold_gain, fold_rows
from saffron_quantizer.algorithms.quantized import Grid
from saffron_quantizer.algorithms.rtn import rtn
from saffron_quantizer.algorithms.scales import MIN_MAX, Search
from saffron_quantizer.algorithms.smoothing import coarse_to_fine
from saffron_quantizer.algorithms.smoothquant import smoothquant
from saffron_quantizer.models.architectures import ARCHITECTURES
from saffron_quantizer.models.edges import SMOOTHABLE, edges_of

# Two products and a quotient in float32: three roundings of at most 2^-24 each.
FLOAT32 = 2.0**-22


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def positive(count, seed=0):
    return torch.exp(random(count, seed=seed))


# --- the search


@pytest.mark.parametrize("best", [0.0, 0.0625, 0.3, 0.5, 0.81, 1.0])
def test_the_exponent_of_least_error_is_found_to_a_sixteenth_in_ten_evaluations(best):
    tried = []

    def error(scale):
        tried.append(scale)
        return (float(scale.log2()) - best) ** 2 if float(scale) != 1.0 or best == 0 else 9.0

    found = coarse_to_fine(torch.ones(1), lambda exponent: torch.tensor([2.0**exponent]), error)
    assert found.exponent is None if best == 0 else abs(found.exponent - best) <= 0.0625
    assert len(tried) <= 10
    assert found.error == min(map(error, list(tried)))


@given(st.lists(st.floats(0, 10) | st.just(float("nan")) | st.just(float("inf")), min_size=9, max_size=9))
def test_what_is_found_is_never_worse_than_no_scales(errors):
    later = iter(errors)
    first = []

    def error(_):
        if not first:
            first.append(True)
            return 3.0
        return next(later)

    found = coarse_to_fine(torch.ones(2), lambda exponent: torch.full((2,), 1 + exponent), error)
    assert found.error <= found.identity_error == 3.0
    assert (found.exponent is None) == (found.error == 3.0)
    if found.exponent is None:
        assert torch.equal(found.scale, torch.ones(2))


def test_an_error_that_is_no_number_without_scales_is_refused():
    with pytest.raises(ArithmeticError):
        coarse_to_fine(torch.ones(2), lambda _: torch.ones(2), lambda _: float("nan"))


def test_awqs_scales_are_a_power_of_the_activity_around_one():
    activity = torch.tensor([4.0, 0.0, 1.0, 0.25])
    seen = []
    awq(activity, lambda scale: seen.append(scale) or -float(len(seen)))
    # Identity, then exponents 0, 1/4, 1/2, 3/4 and 1.
    assert seen[5].tolist() == pytest.approx([4.0, 1.0, 1.0, 0.25])
    assert seen[3].tolist() == pytest.approx([2.0, 1.0, 1.0, 0.5])


def test_smoothquants_scales_are_equation_4_up_to_their_level():
    activations, weights = torch.tensor([8.0, 2.0, 0.0, 5.0]), torch.tensor([0.5, 2.0, 1.0, 0.0])
    seen = []
    smoothquant(activations, weights, lambda scale: seen.append(scale) or -float(len(seen)))
    # At alpha = 1/2 the scales are sqrt(8 / 0.5) = 4 and sqrt(2 / 2) = 1, whose level is 2; channels of 0 keep 1.
    assert seen[3].tolist() == pytest.approx([2.0, 0.5, 1.0, 1.0])


def test_a_channel_with_large_activations_gets_the_larger_scale():
    """One channel is a hundred times as active: AWQ must make its weights larger, and leave less error by that."""
    W, X = random(16, 64), random(200, 64, seed=1)
    X[:, 5] *= 100
    grid = Grid(4, 32, torch.float32)

    def error(scale):
        return float(((X @ (rtn(W * scale, grid, MIN_MAX).dequantize() / scale - W).T) ** 2).sum())

    found = awq(X.abs().mean(dim=0), error)
    assert found.scale.argmax() == 5
    assert found.error < 0.7 * found.identity_error


# --- clipping

SHAPES = [(1, 32, 32), (7, 64, 32), (5, 96, 96), (3, 37, None)]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("rows", "columns", "group"), SHAPES)
def test_each_group_is_clipped_where_its_part_of_the_output_changes_least(rows, columns, group, symmetric):
    grid, W, X = Grid(4, group, torch.float32, symmetric), random(rows, columns), random(50, columns, seed=1)
    size = group or columns
    found = clipped(W, group_gram(X, group), grid)
    for row in range(rows):
        for number in range(columns // size):
            part = slice(number * size, (number + 1) * size)
            one = Grid(4, None, torch.float32, symmetric)
            candidates = [rtn(W[row : row + 1, part], one, Search(factors=(clip,))) for clip in CLIPS]
            errors = [
                float((X[:, part].double() @ (each.dequantize() - W[row : row + 1, part]).double().T).square().sum())
                for each in candidates
            ]
            got = (found.dequantize()[row, part] - W[row, part]).double()
            # Float32 sums against float64 ones: of two clips that are equally good either may be taken.
            assert float((X[:, part].double() @ got).square().sum()) == pytest.approx(min(errors), rel=1e-4)


# --- the fold


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0]), st.sampled_from([torch.bfloat16, torch.float32]))
def test_stored_gain_times_scale_is_the_old_gain(seed, offset, dtype):
    weight = (random(50, seed=seed) - offset).to(dtype)
    weight[:3] = -offset
    before = weight.clone()
    fold = fold_gain(weight, None, positive(50, seed=seed + 1), offset=offset)
    assert (fold.weight.dtype, fold.scale.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(
        (fold.weight.float() + offset) * fold.scale, weight.float() + offset, rtol=FLOAT32, atol=0
    )
    assert (fold.scale > 0).all()
    assert torch.equal(fold.scale[:3], torch.ones(3))
    assert torch.equal(fold.weight[:3], weight[:3])
    assert torch.equal(weight, before)


def test_a_gain_that_would_be_rounded_to_zero_stays():
    weight = torch.tensor([-1 + 2.0**-8, 0.5], dtype=torch.bfloat16)
    fold = fold_gain(weight, None, torch.tensor([1000.0, 2.0]), offset=1.0)
    assert (fold.weight.tolist(), fold.scale.tolist()) == ([-1 + 2.0**-8, -0.25], [1.0, 2.0])


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_norm_with_a_bias_is_folded_without_any_rounding(seed):
    weight, bias = random(50, seed=seed).bfloat16(), random(50, seed=seed + 1).bfloat16()
    weight[0] = 0
    fold = fold_gain(weight, bias, positive(50, seed=seed + 2), offset=0.0)
    assert torch.equal(fold.weight.float() * fold.scale, weight.float())
    assert torch.equal(fold.bias.float() * fold.scale, bias.float())


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_stored_bias_and_rows_times_scale_are_the_old_ones(seed, later):
    weight, bias = random(9, 5, seed=seed).bfloat16(), random(9, seed=seed + 1).bfloat16()
    bias[2] = 0
    fold = fold_rows(weight, bias, positive(9, seed=seed + 2), rounded_later=later)
    tolerance = FLOAT32 if later else 0
    torch.testing.assert_close(fold.bias.float() * fold.scale, bias.float(), rtol=tolerance, atol=0)
    torch.testing.assert_close(fold.weight.float() * fold.scale[:, None], weight.float(), rtol=tolerance, atol=0)
    assert (fold.bias.dtype, fold.weight.dtype) == (torch.bfloat16, torch.float32 if later else torch.bfloat16)


# --- the table


def test_edges_are_those_of_the_parts_that_a_block_has_and_of_each_expert_in_its_order():
    attention = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    experts = [f"mlp.experts.{number}.{leaf}" for number in (10, 9) for leaf in ("up_proj", "gate_proj", "down_proj")]
    dense = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    found = [
        [(edge.producer, edge.consumers, edge.parent) for edge in edges_of("qwen3_moe", None, [*attention, *rest])[2:]]
        for rest in (dense, ["mlp.gate", *experts])
    ]
    norm = "post_attention_layernorm"
    assert found == [
        [
            (norm, ("mlp.gate_proj", "mlp.up_proj"), "mlp"),
            ("mlp.up_proj", ("mlp.down_proj",), "mlp.down_proj"),
        ],
        [
            (
                norm,
                (
                    "mlp.gate",
                    "mlp.experts.9.gate_proj",
                    "mlp.experts.10.gate_proj",
                    "mlp.experts.9.up_proj",
                    "mlp.experts.10.up_proj",
                ),
                "mlp",
            ),
            ("mlp.experts.9.up_proj", ("mlp.experts.9.down_proj",), "mlp.experts.9.down_proj"),
            ("mlp.experts.10.up_proj", ("mlp.experts.10.down_proj",), "mlp.experts.10.down_proj"),
        ],
    ]


@pytest.mark.parametrize(
    ("norm_first", "activation", "producers"),
    [
        (True, "relu", ["self_attn_layer_norm", "self_attn.v_proj", "final_layer_norm", "fc1"]),
        (True, "gelu", ["self_attn_layer_norm", "self_attn.v_proj", "final_layer_norm"]),
        (False, "relu", ["self_attn.v_proj", "fc1"]),
    ],
)
def test_opt_has_an_edge_through_relu_only_and_from_norms_that_come_first(norm_first, activation, producers):
    config = SimpleNamespace(do_layer_norm_before=norm_first, activation_function=activation)
    modules = [*(f"self_attn.{leaf}" for leaf in ("q_proj", "k_proj", "v_proj", "out_proj")), "fc1", "fc2"]
    assert [edge.producer for edge in edges_of("opt", config, modules)] == producers


def test_every_architecture_of_the_table_has_edges():
    assert {architecture.model_type for architecture in ARCHITECTURES} <= set(SMOOTHABLE)
