"""Where a channel's size can be moved within a block without changing what the block computes, as data.

An edge leads from what makes some channels to all that reads them. A channel may be divided in the one place and
multiplied in the other only where nothing but a product with it lies between: no activation function but ReLU, and no
norm. So Gemma's norms after attention and MLP make none, and the linear before an activation makes none.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum


class Producer(Enum):
    """What makes the channels of an edge, which says how a channel is made smaller there."""

    NORM = "a norm whose gain is its weight"
    NORM_OF_ONE_PLUS = "a norm whose gain is 1 + its weight"
    ROWS = "a linear, by all of its rows"
    LAST_ROWS = "a linear, by as many of its last rows as there are channels"


@dataclass(frozen=True)
class Edge:
    """Channels that can be made smaller in one place and larger in another.

    Attributes:
        producer: the norm or linear that makes the channels, by its name inside the block.
        kind: what the producer is.
        consumers: the linears whose columns are the channels. The first is called with all tokens: a router of experts
            stands before them.
        parent: the smallest module that has all of them in it, at whose output the error is measured.
        by_head: whether the channels are those of the key-value heads, each of which several query heads read.
        only_with: a field of the model's config and the value without which this is no edge.
    """

    producer: str
    kind: Producer
    consumers: tuple[str, ...]
    parent: str
    by_head: bool = False
    only_with: tuple[str, object] | None = None


@dataclass(frozen=True)
class Smoothable:
    """What is known of one family's blocks. In names `*` stands for the number of an expert.

    Attributes:
        edges: in the order in which they are computed.
        unclipped: linears whose outputs are multiplied with each other, so that AWQ clips none of their weights.
    """

    edges: tuple[Edge, ...]
    unclipped: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj")


_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATED = ("mlp.gate_proj", "mlp.up_proj")
_TO_ATTENTION = Edge("input_layernorm", Producer.NORM, _ATTENTION, "self_attn")
_VALUES = Edge("self_attn.v_proj", Producer.ROWS, ("self_attn.o_proj",), "self_attn.o_proj", by_head=True)
_TO_MLP = Edge("post_attention_layernorm", Producer.NORM, _GATED, "mlp")
_UP = Edge("mlp.up_proj", Producer.ROWS, ("mlp.down_proj",), "mlp.down_proj")

_LLAMA = Smoothable((_TO_ATTENTION, _VALUES, _TO_MLP, _UP))
_GEMMA = Smoothable(
    (
        Edge("input_layernorm", Producer.NORM_OF_ONE_PLUS, _ATTENTION, "self_attn"),
        _VALUES,
        Edge("pre_feedforward_layernorm", Producer.NORM_OF_ONE_PLUS, _GATED, "mlp"),
        _UP,
    )
)
_MIXTRAL = Smoothable(
    (
        _TO_ATTENTION,
        _VALUES,
        Edge(
            "post_attention_layernorm",
            Producer.NORM,
            ("block_sparse_moe.gate", "block_sparse_moe.experts.*.w1", "block_sparse_moe.experts.*.w3"),
            "block_sparse_moe",
        ),
        Edge(
            "block_sparse_moe.experts.*.w3",
            Producer.ROWS,
            ("block_sparse_moe.experts.*.w2",),
            "block_sparse_moe.experts.*.w2",
        ),
    )
)
_QWEN3_MOE = Smoothable(
    (
        _TO_ATTENTION,
        _VALUES,
        # Of a block without experts the second pair are the consumers, of one with experts the rest.
        Edge(
            "post_attention_layernorm",
            Producer.NORM,
            ("mlp.gate", *_GATED, "mlp.experts.*.gate_proj", "mlp.experts.*.up_proj"),
            "mlp",
        ),
        _UP,
        Edge("mlp.experts.*.up_proj", Producer.ROWS, ("mlp.experts.*.down_proj",), "mlp.experts.*.down_proj"),
    )
)
_PHI3 = Smoothable(
    (
        Edge("input_layernorm", Producer.NORM, ("self_attn.qkv_proj",), "self_attn"),
        Edge("self_attn.qkv_proj", Producer.LAST_ROWS, ("self_attn.o_proj",), "self_attn.o_proj", by_head=True),
        Edge("post_attention_layernorm", Producer.NORM, ("mlp.gate_up_proj",), "mlp"),
        Edge("mlp.gate_up_proj", Producer.LAST_ROWS, ("mlp.down_proj",), "mlp.down_proj"),
    ),
    unclipped=("self_attn.qkv_proj",),
)
_NORM_FIRST = ("do_layer_norm_before", True)
_OPT = Smoothable(
    (
        Edge("self_attn_layer_norm", Producer.NORM, _ATTENTION, "self_attn", only_with=_NORM_FIRST),
        Edge("self_attn.v_proj", Producer.ROWS, ("self_attn.out_proj",), "self_attn.out_proj"),
        Edge("final_layer_norm", Producer.NORM, ("fc1",), "fc1", only_with=_NORM_FIRST),
        Edge("fc1", Producer.ROWS, ("fc2",), "fc2", only_with=("activation_function", "relu")),
    )
)
# Its values are rows in between those of queries and keys, and its MLP has a GELU.
_GPT_NEOX = Smoothable(
    (
        Edge("input_layernorm", Producer.NORM, ("attention.query_key_value",), "attention"),
        Edge("post_attention_layernorm", Producer.NORM, ("mlp.dense_h_to_4h",), "mlp"),
    ),
    unclipped=("attention.query_key_value",),
)

SMOOTHABLE: Mapping[str, Smoothable] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _MIXTRAL,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "qwen3_moe": _QWEN3_MOE,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "phi3": _PHI3,
    "opt": _OPT,
    "gpt_neox": _GPT_NEOX,
}
"""By config.json's `model_type`."""


def edges_of(model_type: str, config: object, modules: Collection[str]) -> tuple[Edge, ...]:
    """The edges of one block.

    Args:
        model_type: of the model.
        config: transformers' config of it.
        modules: the block's modules with a weight, by their names inside it. An edge without consumers among them is
            one of a part that this block does not have.
    """
    exact = [edge for edge in SMOOTHABLE[model_type].edges if edge.only_with is None or _has(config, *edge.only_with)]
    edges = [each for edge in exact for each in _each_producer(edge, modules)]
    return tuple(edge for edge in edges if edge.consumers)


def _has(config: object, field: str, value: object) -> bool:
    return bool(getattr(config, field) == value)


def _each_producer(edge: Edge, modules: Collection[str]) -> list[Edge]:
    """The edge of each expert where the producer is one's, with the consumers that are there."""
    if "*" not in edge.producer:
        consumers = tuple(name for pattern in edge.consumers for name in _matching(pattern, modules))
        return [replace(edge, consumers=consumers)]
    found = []
    for producer in _matching(edge.producer, modules):
        number = producer.removeprefix(edge.producer.split("*")[0]).split(".")[0]
        consumers = tuple(name.replace("*", number) for name in edge.consumers)
        parent = edge.parent.replace("*", number)
        found.append(replace(edge, producer=producer, consumers=consumers, parent=parent))
    return found


def _matching(pattern: str, modules: Collection[str]) -> list[str]:
    """The modules that a pattern means, experts in the order of their numbers."""
    expression = re.compile(re.escape(pattern).replace(r"\*", r"(\d+)"))
    found = [match for name in modules if (match := expression.fullmatch(name))]
    return [match[0] for match in sorted(found, key=lambda match: [int(number) for number in match.groups()])]
