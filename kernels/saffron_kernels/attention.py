"""Causal attention: softmax(q kᵀ · scale) v over the keys that a query may see (arXiv 1706.03762, equation 1).

A query sees itself and what comes before it, with a window only its last keys. Heads of queries may share a head of
keys and values (arXiv 2305.13245).
"""

import torch
from torch import Tensor

from saffron_kernels.eager import on_cpu


def has_fast_causal_attention(*heads: Tensor) -> bool:
    """Whether `causal_attention` of heads like these is faster than torch's own, and nothing asks for a gradient."""
    if not all(on_cpu(each) and each.dtype == torch.bfloat16 and not each.shape[-1] % 2 for each in heads):
        return False
    # Numba takes half a second to import, and only this needs it.
    from saffron_kernels.tile_kinds import AVX512_BF16, has_tiles  # noqa: PLC0415

    return has_tiles(AVX512_BF16)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None = None) -> Tensor:
    """Attend to what came before.

    Args:
        q: [B, Hq, L, D].
        k: [B, Hkv, L, D], where Hkv divides Hq.
        v: [B, Hkv, L, D].
        scale: what the scores are multiplied with.
        window: how many keys a query sees, its own among them, at least 1; None for all before it.

    Returns:
        [B, L, Hq, D].

    Raises:
        ValueError: `has_fast_causal_attention` says no, or shapes do not fit.
    """
    if not has_fast_causal_attention(q, k, v):
        raise ValueError("there is no fast causal attention for this type on this processor, and none with a gradient")
    batch, heads, length, width = q.shape
    groups = k.shape[1]
    if k.shape != (batch, groups, length, width) or v.shape != k.shape or groups == 0 or heads % groups:
        raise ValueError(f"k {list(k.shape)} and v {list(v.shape)} do not fit q {list(q.shape)}")
    if window is not None and window < 1:
        raise ValueError(f"a window of {window} keys has no room for a query's own")
    from saffron_kernels.attention_bfloat16 import causal_attention_of_bfloat16  # noqa: PLC0415 - as above

    return causal_attention_of_bfloat16(q, k, v, scale, q.shape[2] if window is None else window)


def causal_attention_reference(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None = None) -> Tensor:
    """What `causal_attention` computes, in float32 and plain torch."""
    length = q.shape[2]
    k, v = (each.float().repeat_interleave(q.shape[1] // each.shape[1], dim=1) for each in (k, v))
    scores = q.float() @ k.mT * scale
    scores = scores.masked_fill(~causal_mask(length, window, q.device), -torch.inf)
    return (scores.softmax(dim=-1) @ v).transpose(1, 2)


def causal_mask(length: int, window: int | None, device: torch.device | None = None) -> Tensor:
    """Which keys each query sees, [L, L] bool on a device; on torch's own choice of one by default."""
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril_()
    return seen if window is None else seen.triu_(1 - window)
