"""The attention that models are run with: our kernel where it is the faster one, else torch's own."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from saffron_kernels.attention import causal_attention, causal_mask, has_fast_causal_attention
from saffron_quantizer.models.lean_import import lean_import

with lean_import():
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

ATTENTION = "saffron"
"""The name that transformers knows it by."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **keywords: Any,  # noqa: ANN401 - whatever transformers passes
) -> tuple[Tensor, None]:
    """Attend as transformers' `sdpa` does, [B, H, L, D] -> [B, L, H, D]."""
    fits = has_fast_causal_attention(query, key, value) and query.shape[2:] == key.shape[2:] == value.shape[2:]
    plain = not keywords.get("dropout") and keywords.get("position_bias") is None and keywords.get("cache") is None
    window = _window(module, query.shape[2], attention_mask, keywords.get("is_causal")) if fits and plain else None
    if window is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **keywords)
        return output, None
    scaling = keywords.get("scaling")
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    return causal_attention(query, key, value, scale, window), None


def _window(module: nn.Module, length: int, mask: Tensor | None, is_causal: bool | None) -> int | None:  # noqa: FBT001 - transformers' own
    """How many keys each query sees, its own and those before it; None where it sees others."""
    if mask is None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        return length if causal else None
    if mask.dtype != torch.bool or mask.shape[1:] != (1, length, length):
        return None
    window = int(mask[0, 0, -1].sum())
    return window if window > 0 and torch.equal(mask, _mask(length, window).expand(mask.shape)) else None


@lru_cache(maxsize=2)
def _mask(length: int, window: int) -> Tensor:
    return causal_mask(length, window)


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
