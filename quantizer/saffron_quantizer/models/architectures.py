"""What we know of each architecture, as data.

A row says where its parts are in a checkpoint and which linear layers of a block read the same input. All else
(norms, attention, activation, rotary embedding) is done by transformers' own modules for it.
"""

from dataclasses import dataclass


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


@dataclass(frozen=True)
class Architecture:
    """One family of causal language models.

    Attributes:
        name: the class in config.json's `architectures`.
        model_type: config.json's `model_type`.
        input_groups: linears of a block in the order in which they are computed, by their names inside the block; those
            of one group read the same input, so they share one Hessian and engines merge them into one layer.
        sublayers: the parts of a block whose output is that of their last linear.
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
    blocks: str = "model.layers"
    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    head: str = "lm_head"

    @property
    def linears(self) -> tuple[str, ...]:
        """All linears of a block by their names inside it, in the order in which they are computed."""
        return tuple(linear for group in self.input_groups for linear in group)

    @property
    def attention(self) -> str:
        """The name of the attention inside a block."""
        return next(sublayer.module for sublayer in self.sublayers if sublayer.gives_attention_weights)

    def block(self, index: int) -> str:
        """Prefix of one block's tensors."""
        return f"{self.blocks}.{index}"


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("LlamaForCausalLM", "llama"),
    Architecture("MistralForCausalLM", "mistral"),
    Architecture("Qwen2ForCausalLM", "qwen2"),
    Architecture("Qwen3ForCausalLM", "qwen3"),
    Architecture("Gemma3ForCausalLM", "gemma3_text"),
)
"""Every architecture that is supported."""


def find_architecture(name: str, model_type: str) -> Architecture | None:
    """The row for a config.json's `architectures[0]` and `model_type`, or None."""
    for architecture in ARCHITECTURES:
        if (architecture.name, architecture.model_type) == (name, model_type):
            return architecture
    return None
