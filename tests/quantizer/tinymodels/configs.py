"""The config of a tiny model of each architecture."""

from collections.abc import Mapping
from typing import Any

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 97,
    "max_position_embeddings": 128,
    # Ten times the usual, so that attention is not almost uniform and a wrong mask would show.
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_SLIDES_AND_NOT = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
SPECIAL: Mapping[str, Mapping[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": 8},
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    "Qwen2": {},
    "Qwen3": {},
    "Qwen3Moe": {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True},
    # Logits of this size are bent by the cap, so that one left out would show.
    "Gemma2": {"query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0, **_SLIDES_AND_NOT},
    "Gemma3Text": _SLIDES_AND_NOT,
    "Phi3": {"sliding_window": 8},
    "OPT": {"ffn_dim": 128, "word_embed_proj_dim": 64, "dropout": 0.0},
    "GPTNeoX": {
        "num_key_value_heads": 4,  # not its own field, but engines that build on transformers look for it
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    },
}
"""What each architecture's config has besides `TINY`."""
