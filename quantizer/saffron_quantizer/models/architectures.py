"""What we know of each architecture, as data.

A row says where its parts are in a checkpoint and which linear layers of a block read the same input, by their names
in the file. All else (norms, attention, activation, rotary embedding, routing) is done by transformers' own modules.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

InputGroup = tuple[str, ...]
"""Linears of a block, by their names inside it, that read the same input."""


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
class Mixture:
    """A mixture of experts in the place of a block's MLP, each expert y = down(act(gate(x)) * up(x)).

    The file has a linear for each expert and projection, `experts.7.w1` say; transformers joins them to one tensor.

    Attributes:
        experts: the module inside the block whose children are the experts by number.
        gate: name inside an expert of the linear before the activation.
        up: of the linear that it is multiplied with.
        down: of the linear after both.
    """

    experts: str
    gate: str
    up: str
    down: str

    def groups(self, number: str) -> tuple[InputGroup, InputGroup]:
        """The input groups of one expert."""
        expert = f"{self.experts}.{number}"
        return (f"{expert}.{self.gate}", f"{expert}.{self.up}"), (f"{expert}.{self.down}",)

    def expert_of(self, linear: str) -> str | None:
        """The name of the expert inside the block that a linear is part of, or None if it is part of none."""
        found = re.match(rf"{re.escape(self.experts)}\.\d+(?=\.)", linear)
        return found and found[0]


@dataclass(frozen=True)
class Renamed:
    """A module that has one name in the file and another in transformers.

    Attributes:
        module: transformers' full name, with `*` for the number of a block.
        leaf: the last part of its name in the file.
    """

    module: str
    leaf: str


_SELF_ATTENTION = Sublayer("self_attn", "self_attn.o_proj", gives_attention_weights=True)
_MLP = Sublayer("mlp", "mlp.down_proj", gives_attention_weights=False)


@dataclass(frozen=True)
class Architecture:
    """One family of causal language models.

    Attributes:
        name: the class in config.json's `architectures`.
        model_type: config.json's `model_type`.
        input_groups: linears of a block in the order in which they are computed, by their names inside the block; those
            of one group read the same input, so they share one Hessian and engines merge them into one layer. A block
            that has none of a group's linears is one without that part.
        mixture: the experts of blocks that have some; they are computed last.
        kept: linears of a block, by their names inside it, that are never quantized: routers above all.
        sublayers: the parts of a block whose output is that of their last linear.
        blocks: prefix of the blocks' tensors, before the number.
        embedding: module of the token embedding.
        final: modules that follow the last block, in their order; a model may lack some.
        head: module of the output projection; absent from the file where it is tied to the embedding.
        unquantized: linears outside the blocks, and modules of engines that stand for one, besides the head.
        renamed: modules whose names in the file are not those in transformers.
        inferred: whether it is no row of the table, but what a class of transformers showed.
    """

    name: str
    model_type: str
    input_groups: tuple[InputGroup, ...] = (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("mlp.down_proj",),
    )
    mixture: Mixture | None = None
    kept: tuple[str, ...] = ()
    sublayers: tuple[Sublayer, ...] = (_SELF_ATTENTION, _MLP)
    blocks: str = "model.layers"
    embedding: str = "model.embed_tokens"
    final: tuple[str, ...] = ("model.norm",)
    head: str = "lm_head"
    unquantized: tuple[str, ...] = ()
    renamed: tuple[Renamed, ...] = ()
    inferred: bool = False

    @property
    def attention(self) -> str:
        """The name of the attention inside a block."""
        return next(sublayer.module for sublayer in self.sublayers if sublayer.gives_attention_weights)

    def block(self, index: int) -> str:
        """Prefix of one block's tensors."""
        return f"{self.blocks}.{index}"

    def groups(self, linears: Iterable[str]) -> tuple[InputGroup, ...]:
        """The input groups of one block, in the order in which they are computed.

        Args:
            linears: the linears that the block has, by their names inside it; others among them do no harm.
        """
        present = set(linears)
        return tuple(group for group in (*self.input_groups, *self._expert_groups(present)) if present & set(group))

    def _expert_groups(self, linears: Iterable[str]) -> list[InputGroup]:
        if self.mixture is None:
            return []
        experts = {found for linear in linears if (found := self.mixture.expert_of(linear))}
        numbers = sorted((expert.rpartition(".")[2] for expert in experts), key=int)
        return [group for number in numbers for group in self.mixture.groups(number)]


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("LlamaForCausalLM", "llama"),
    Architecture("MistralForCausalLM", "mistral"),
    Architecture(
        "MixtralForCausalLM",
        "mixtral",
        mixture=Mixture("block_sparse_moe.experts", "w1", "w3", "w2"),
        kept=("block_sparse_moe.gate",),
        sublayers=(_SELF_ATTENTION,),
        renamed=(Renamed("model.layers.*.mlp", "block_sparse_moe"),),
    ),
    Architecture("Qwen2ForCausalLM", "qwen2"),
    Architecture("Qwen3ForCausalLM", "qwen3"),
    # Blocks in `mlp_only_layers` have an MLP and no experts, so the MLP's groups stay.
    Architecture(
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        mixture=Mixture("mlp.experts", "gate_proj", "up_proj", "down_proj"),
        kept=("mlp.gate",),
        sublayers=(_SELF_ATTENTION,),
    ),
    Architecture("Gemma2ForCausalLM", "gemma2"),
    Architecture("Gemma3ForCausalLM", "gemma3_text"),
    Architecture(
        "Phi3ForCausalLM",
        "phi3",
        input_groups=(
            ("self_attn.qkv_proj",),
            ("self_attn.o_proj",),
            ("mlp.gate_up_proj",),
            ("mlp.down_proj",),
        ),
    ),
    Architecture(
        "OPTForCausalLM",
        "opt",
        input_groups=(
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            ("self_attn.out_proj",),
            ("fc1",),
            ("fc2",),
        ),
        sublayers=(Sublayer("self_attn", "self_attn.out_proj", gives_attention_weights=True),),
        blocks="model.decoder.layers",
        embedding="model.decoder.embed_tokens",
        # 350m has no final norm, and projections between the width of its embedding and that of its blocks.
        final=("model.decoder.final_layer_norm", "model.decoder.project_out"),
        unquantized=("model.decoder.project_in", "model.decoder.project_out"),
    ),
    Architecture(
        "GPTNeoXForCausalLM",
        "gpt_neox",
        input_groups=(
            ("attention.query_key_value",),
            ("attention.dense",),
            ("mlp.dense_h_to_4h",),
            ("mlp.dense_4h_to_h",),
        ),
        sublayers=(
            Sublayer("attention", "attention.dense", gives_attention_weights=True),
            Sublayer("mlp", "mlp.dense_4h_to_h", gives_attention_weights=False),
        ),
        blocks="gpt_neox.layers",
        embedding="gpt_neox.embed_in",
        final=("gpt_neox.final_layer_norm",),
        head="embed_out",
        # transformers and the engines that build on it call the head so, and look there for what is ignored.
        unquantized=("lm_head",),
        renamed=(Renamed("lm_head", "embed_out"),),
    ),
)
"""Every architecture that is supported."""


def find_architecture(name: str, model_type: str) -> Architecture | None:
    """The row for a config.json's `architectures[0]` and `model_type`, or None."""
    for architecture in ARCHITECTURES:
        if (architecture.name, architecture.model_type) == (name, model_type):
            return architecture
    return None
