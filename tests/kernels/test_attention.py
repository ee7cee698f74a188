"""Causal attention against its definition, on shapes that fill no tile."""

import pytest
import torch

from saffron_kernels.attention import (
    causal_attention,
    causal_attention_reference,
    causal_mask,
    has_fast_causal_attention,
)


def heads(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def test_the_reference_is_torchs_own_attention():
    q, k, v = heads(2, 4, 9, 6), heads(2, 2, 9, 6, seed=1), heads(2, 2, 9, 6, seed=2)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        q.float(), k.float(), v.float(), attn_mask=causal_mask(9, 4), scale=0.3, enable_gqa=True
    )
    assert torch.allclose(causal_attention_reference(q, k, v, 0.3, 4), wanted.transpose(1, 2), atol=1e-6)


@pytest.mark.parametrize(("length", "window"), [(3, None), (4, 1), (5, 3)])
def test_a_query_sees_itself_and_what_comes_before_it_in_its_window(length, window):
    mask = causal_mask(length, window)
    seen = [[i - (window or length) < j <= i for j in range(length)] for i in range(length)]
    assert mask.tolist() == seen


@pytest.mark.skipif(not has_fast_causal_attention(heads(1, 1, 1, 2)), reason="the processor lacks AVX512-BF16")
@pytest.mark.parametrize(
    ("shape", "groups", "window"),
    [
        ((1, 1, 1, 2), 1, None),
        ((2, 4, 130, 64), 1, None),
        ((1, 6, 97, 80), 3, 33),
        ((3, 2, 49, 50), 2, 5),
        ((1, 2, 64, 256), 1, 64),
    ],
)
def test_fast_attention_is_off_by_the_rounding_of_shares_and_outputs_alone(shape, groups, window):
    batch, _, length, width = shape
    q, k, v = heads(*shape), heads(batch, groups, length, width, seed=1), heads(batch, groups, length, width, seed=2)
    before = [each.clone() for each in (q, k, v)]
    got = causal_attention(q, k, v, width**-0.5, window)
    wanted = causal_attention_reference(q, k, v, width**-0.5, window)
    # Shares are rounded to bfloat16, at most 2^-8 of each, and so is the output; shares sum to 1.
    largest = v.float().abs().max()
    assert got.dtype == torch.bfloat16
    assert (got.float() - wanted).abs().max() <= 2 * 2.0**-8 * largest
    assert all(torch.equal(each, one) for each, one in zip((q, k, v), before, strict=True))


@pytest.mark.skipif(not has_fast_causal_attention(heads(1, 1, 1, 2)), reason="the processor lacks AVX512-BF16")
def test_scores_far_apart_neither_overflow_nor_turn_into_nan():
    q, k, v = heads(1, 1, 60, 16) * 300, heads(1, 1, 60, 16, seed=1) * 300, heads(1, 1, 60, 16, seed=2)
    got = causal_attention(q, k, v, 1.0)
    assert torch.isfinite(got.float()).all()
    assert (got.float() - causal_attention_reference(q, k, v, 1.0)).abs().max() < 2.0**-6 * v.float().abs().max()


@pytest.mark.skipif(not has_fast_causal_attention(heads(1, 1, 1, 2)), reason="the processor lacks AVX512-BF16")
@pytest.mark.parametrize(("length", "window"), [(30, None), (200, None), (200, 70)])
def test_the_number_of_threads_changes_no_bit(length, window):
    q, k, v = heads(2, 3, length, 50), heads(2, 1, length, 50, seed=1), heads(2, 1, length, 50, seed=2)
    before, got = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            got.append(causal_attention(q, k, v, 0.2, window))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got[1], got[0])
    assert torch.equal(got[2], got[0])


def test_float32_queries_are_refused():
    q = torch.randn(1, 1, 3, 4)
    assert not has_fast_causal_attention(q)
    with pytest.raises(ValueError, match="no fast causal attention"):
        causal_attention(q, q, q, 1.0)


@pytest.mark.skipif(not has_fast_causal_attention(heads(1, 1, 1, 2)), reason="the processor lacks AVX512-BF16")
def test_what_wants_a_gradient_is_left_to_torch():
    q = heads(1, 1, 3, 4)
    assert not has_fast_causal_attention(q.clone().requires_grad_())
    with torch.no_grad():
        assert has_fast_causal_attention(q.clone().requires_grad_())
    with pytest.raises(ValueError, match="no fast causal attention"):
        causal_attention(q, q, q.clone().requires_grad_(), 1.0)


@pytest.mark.skipif(not has_fast_causal_attention(heads(1, 1, 1, 2)), reason="the processor lacks AVX512-BF16")
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"k": heads(1, 2, 4, 6)}, r"k \[1, 2, 4, 6\]"),
        ({"v": heads(1, 2, 5, 4)}, r"v \[1, 2, 5, 4\]"),
        ({"v": heads(1, 1, 5, 6)}, r"v \[1, 1, 5, 6\]"),
        ({"k": heads(1, 3, 5, 6), "v": heads(1, 3, 5, 6)}, r"k \[1, 3, 5, 6\]"),
        ({"k": heads(1, 0, 5, 6), "v": heads(1, 0, 5, 6)}, r"k \[1, 0, 5, 6\]"),
        ({"window": 0}, "a window of 0"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changed, words):
    fitting = {"q": heads(1, 4, 5, 6), "k": heads(1, 2, 5, 6), "v": heads(1, 2, 5, 6), "scale": 1.0, "window": 3}
    with pytest.raises(ValueError, match=words):
        causal_attention(**fitting | changed)


@pytest.mark.skipif(not has_fast_causal_attention(heads(1, 1, 1, 2)), reason="the processor lacks AVX512-BF16")
def test_keys_of_another_type_are_refused():
    q = heads(1, 1, 3, 4)
    with pytest.raises(ValueError, match="no fast causal attention"):
        causal_attention(q, q.float(), q, 1.0)
