"""Where a channel's size can be moved within a block without changing what the block computes, as data.

An edge leads from what makes some channels to all that reads them. A channel may be divided in the one place and
multiplied in the other only where nothing but a product with it lies between: no activation function but ReLU, and no
norm. So Gemma's norms after attention and MLP make none, and the linear before an activation makes none.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
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
    """

    producer: str
    kind: Producer
    consumers: tuple[str, ...]
    parent: str
    by_head: bool = False


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

SMOOTHABLE: Mapping[str, Smoothable] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma3_text": _GEMMA,
}
"""By config.json's `model_type`."""


def edges_of(model_type: str, modules: Collection[str]) -> tuple[Edge, ...]:
    """The edges of one block.

    Args:
        model_type: of the model.
        modules: the block's modules with a weight, by their names inside it. An edge without consumers among them is
            one of a part that this block does not have.
    """
    edges = [each for edge in SMOOTHABLE[model_type].edges for each in _each_producer(edge, modules)]
    return tuple(edge for edge in edges if edge.consumers)


def _each_producer(edge: Edge, modules: Collection[str]) -> list[Edge]:
    """The edge of each expert where the producer is one's, with the consumers that are there."""
    if "*" not in edge.producer:
        consumers = tuple(name for pattern in edge.consumers for name in _matching(pattern, modules))
        return [Edge(edge.producer, edge.kind, consumers, edge.parent, edge.by_head)]
    found = []
    for producer in _matching(edge.producer, modules):
        number = producer.removeprefix(edge.producer.split("*")[0]).split(".")[0]
        consumers = tuple(name.replace("*", number) for name in edge.consumers)
        found.append(Edge(producer, edge.kind, consumers, edge.parent.replace("*", number), edge.by_head))
    return found


def _matching(pattern: str, modules: Collection[str]) -> list[str]:
    """The modules that a pattern means, experts in the order of their numbers."""
    expression = re.compile(re.escape(pattern).replace(r"\*", r"(\d+)"))
    found = [match for name in modules if (match := expression.fullmatch(name))]
    return [match[0] for match in sorted(found, key=lambda match: [int(number) for number in match.groups()])]
