"""What we know of each architecture, as data.

A row says where its parts are in a checkpoint and which linear layers of a block read the same input. All else
(norms, attention, activation, rotary embedding) is done by transformers' own modules for it.
"""

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class Sublayer:
    """A part of a block whose output is that of its last linear.

    Attributes:
        module: its name inside the block.
        last: the name of that linear inside the block.
        gives_attention_weights: whether it returns the pair (output, attention weights or None).
    """

    module: str
    last: str
    gives_attention_weights: bool


class Producer(Enum):
    """What makes the channels of an edge, which says how a channel is made smaller there."""

    NORM = "a norm whose gain is its weight"
    NORM_OF_ONE_PLUS = "a norm whose gain is 1 + its weight"
    ROWS = "a linear, by all of its rows"
    LAST_ROWS = "a linear, by as many of its last rows as there are channels"


@dataclass(frozen=True)
class Edge:
    """Channels that can be made smaller in one place and larger in another without changing what the block computes.

    So it is only where nothing but a product with the channel lies between both, and where the consumers are all that
    reads it. An activation function in between is in the way, unless it is ReLU; so is a norm after the producer.

    Attributes:
        producer: the norm or linear that makes the channels, by its name inside the block.
        kind: what the producer is.
        consumers: the linears whose columns are the channels; a router of experts is one of them.
        parent: the smallest module that has all consumers in it, at whose output the error is measured.
        by_head: whether the channels are those of the key-value heads, each of which several query heads read.
    """

    producer: str
    kind: Producer
    consumers: tuple[str, ...]
    parent: str
    by_head: bool = False


_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATED = ("mlp.gate_proj", "mlp.up_proj")
_VALUES = Edge("self_attn.v_proj", Producer.ROWS, ("self_attn.o_proj",), "self_attn.o_proj", by_head=True)
_UP = Edge("mlp.up_proj", Producer.ROWS, ("mlp.down_proj",), "mlp.down_proj")
_LLAMA_EDGES = (
    Edge("input_layernorm", Producer.NORM, _ATTENTION, "self_attn"),
    _VALUES,
    Edge("post_attention_layernorm", Producer.NORM, _GATED, "mlp"),
    _UP,
)
# What follows attention and MLP in these is a norm of their output, so neither is its consumer.
_GEMMA_EDGES = (
    Edge("input_layernorm", Producer.NORM_OF_ONE_PLUS, _ATTENTION, "self_attn"),
    _VALUES,
    Edge("pre_feedforward_layernorm", Producer.NORM_OF_ONE_PLUS, _GATED, "mlp"),
    _UP,
)


@dataclass(frozen=True)
class Architecture:
    """One family of causal language models.

    Attributes:
        name: the class in config.json's `architectures`.
        model_type: config.json's `model_type`.
        input_groups: linears of a block in the order in which they are computed, by their names inside the block; those
            of one group read the same input, so they share one Hessian and engines merge them into one layer.
        sublayers: the parts of a block whose output is that of their last linear.
        edges: where a channel's size can be moved within a block, for AWQ and SmoothQuant.
        unclipped: linears whose outputs are multiplied with each other, so that AWQ clips none of their weights.
        blocks: prefix of the blocks' tensors, before the number.
        embedding: module of the token embedding.
        final_norm: module of the norm after the last block.
        head: module of the output projection; absent from the file where it is tied to the embedding.
    """

    name: str
    model_type: str
    input_groups: tuple[tuple[str, ...], ...] = (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("mlp.down_proj",),
    )
    sublayers: tuple[Sublayer, ...] = (
        Sublayer("self_attn", "self_attn.o_proj", gives_attention_weights=True),
        Sublayer("mlp", "mlp.down_proj", gives_attention_weights=False),
    )
    edges: tuple[Edge, ...] = _LLAMA_EDGES
    unclipped: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj")
    blocks: str = "model.layers"
    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    head: str = "lm_head"

    @property
    def linears(self) -> tuple[str, ...]:
        """All linears of a block by their names inside it, in the order in which they are computed."""
        return tuple(linear for group in self.input_groups for linear in group)

    def block(self, index: int) -> str:
        """Prefix of one block's tensors."""
        return f"{self.blocks}.{index}"


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("LlamaForCausalLM", "llama"),
    Architecture("MistralForCausalLM", "mistral"),
    Architecture("Qwen2ForCausalLM", "qwen2"),
    Architecture("Qwen3ForCausalLM", "qwen3"),
    Architecture("Gemma3ForCausalLM", "gemma3_text", edges=_GEMMA_EDGES),
)
"""Every architecture that is supported."""


def find_architecture(name: str, model_type: str) -> Architecture | None:
    """The row for a config.json's `architectures[0]` and `model_type`, or None."""
    for architecture in ARCHITECTURES:
        if (architecture.name, architecture.model_type) == (name, model_type):
            return architecture
    return None
