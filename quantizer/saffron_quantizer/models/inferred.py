"""A plan for an architecture without a row: every linear in its repeated blocks, as its transformers class shows them.

What its class does not show is a reason to refuse, by name: a wrong guess would make a checkpoint that loads and talks
nonsense.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.models.architectures import Architecture, InputGroup
from saffron_quantizer.models.lean_import import lean_import
from saffron_quantizer.models.observed import Observed, observe
from saffron_quantizer.models.weightless import without_weights

with lean_import():
    from transformers import PreTrainedModel
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.modeling_outputs import BaseModelOutputWithPast

ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})
"""What the last part of a router's name is. Few bits there send tokens to other experts."""
LATENTS = ("kv_a_proj", "kv_b_proj")
"""How the projections into and out of a latent of keys and values (MLA) begin; checkpoints with these in few bits load
and talk nonsense."""

_MATRIX = 2
_FOREIGN = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, NotImplementedError)
"""What a model's code raises where it is called in a way that it was not made for."""


def infer_architecture(folder: Path, name: str, model_type: str) -> Architecture:
    """Infer a row from the transformers class of a model.

    Args:
        folder: where config.json is.
        name: the class that config.json names.
        model_type: config.json's.

    Raises:
        StageError: `ARCHITECTURE_UNSUPPORTED`; its subject says in brackets what stands in the way.
    """
    unknown = _Unknown(name)
    try:
        model = without_weights(folder, torch.float32)
    except StageError:
        unknown.refuse(
            model_type, "transformers has no causal language model for it that runs with torch's own attention"
        )
    if type(model).__name__ != name:
        unknown.refuse(model_type, "transformers has another class for this model_type")
    if get_checkpoint_conversion_mapping(model_type) or get_checkpoint_conversion_mapping(name):
        unknown.refuse("converted-weights", "its tensors have other names or shapes in the file than in transformers")
    prefix, blocks = unknown.blocks(model)
    unknown.require_linears(blocks)
    seen = unknown.observed(model, prefix)
    embedding, outside = _name_of(model, model.get_input_embeddings()), _linears(model)
    head = unknown.head(model)
    quantized, kept = _parted(seen.linears)
    kept |= {linear for block in blocks for linear in _linears(block)} - set(seen.linears)
    return Architecture(
        name,
        model_type,
        input_groups=unknown.groups(seen, quantized),
        kept=tuple(sorted(kept)),
        sublayers=(),
        blocks=prefix,
        embedding=embedding,
        final=tuple(f"{prefix.rpartition('.')[0]}.{child}".lstrip(".") for child in seen.final),
        head=head,
        unquantized=tuple(n for n in outside if not n.startswith(f"{prefix}.") and n != head),
        inferred=True,
    )


@dataclass(frozen=True)
class _Unknown:
    """An architecture without a row, and the questions that its class must answer."""

    name: str

    def refuse(self, what: str, why: str) -> NoReturn:
        """Raise, with what stands in the way."""
        failure = Failure(reason=FailureReason.ARCHITECTURE_UNSUPPORTED, subject=subject_of(f"{self.name}({what})"))
        raise StageError(failure, detail=why)

    def blocks(self, model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
        """The one list of blocks of one type, as many as the config has layers, and its name."""
        lists = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, nn.ModuleList)
            and len(module) == getattr(model.config, "num_hidden_layers", None)
            and len({type(block) for block in module}) == 1
        ]
        outermost = [(n, m) for n, m in lists if not any(n.startswith(f"{other}.") for other, _ in lists)]
        if len(outermost) != 1:
            self.refuse("blocks", f"it has {len(outermost)} lists of blocks of one type, where one is needed")
        return outermost[0]

    def require_linears(self, blocks: nn.ModuleList) -> None:
        """Refuse blocks with matrices that are in no linear: a transposed or joined one would be left as it is."""
        for block in blocks:
            linear = {f"{name}.weight" for name in _linears(block)}
            for name, parameter in block.named_parameters():
                if parameter.dim() >= _MATRIX and name not in linear:
                    owner = type(block.get_submodule(name.rpartition(".")[0])).__name__
                    self.refuse(f"{name}:{owner}", f"{owner} is no nn.Linear; its weight would be left as it is")

    def observed(self, model: PreTrainedModel, prefix: str) -> Observed:
        """What a forward pass of the module that owns the blocks shows."""
        inner, blocks = model.get_submodule(prefix.rpartition(".")[0]), model.get_submodule(prefix)
        if next(inner.parameters(recurse=False), None) is not None:
            self.refuse(type(inner).__name__, "it has parameters of its own beside its parts")
        try:
            seen = observe(inner, cast("nn.ModuleList", blocks))
        except _FOREIGN as error:
            self.refuse(f"forward:{type(error).__name__}", "its forward pass depends on more than shapes")
        for what, why in seen.faults.items():
            self.refuse(what, why)
        return seen

    def groups(self, seen: Observed, quantized: set[str]) -> tuple[InputGroup, ...]:
        """The linears that are quantized, those that read one tensor together, in order."""
        order = {name: number for number, name in enumerate(seen.linears)}
        read = {tuple(sorted(set(names) & quantized, key=order.__getitem__)) for names in seen.read_by} - {()}
        groups = sorted(read, key=lambda group: order[group[0]])
        if sum(len(group) for group in groups) != len(quantized):
            self.refuse("inputs", "its blocks do not share inputs alike")
        return tuple(groups)

    def head(self, model: PreTrainedModel) -> str:
        """The name of the head, if logits are what it makes of final hidden states, capped where the config says so."""
        head = model.get_output_embeddings()
        name = _name_of(model, head)
        if not isinstance(head, nn.Linear) or head.bias is not None:
            self.refuse(f"{name}:{type(head).__name__}", "its head is no linear without bias")
        body = next(child for child, module in model.named_children() if module is not head)
        hidden, small = torch.randn(1, 2, head.in_features), nn.Linear(head.in_features, 3, bias=False)
        setattr(model, body, _Given(hidden))
        model.set_output_embeddings(small)
        expected = small(hidden)
        cap = getattr(model.config, "final_logit_softcapping", None)
        expected = expected if cap is None else torch.tanh(expected / cap) * cap
        try:
            logits = model(torch.zeros(1, 2, dtype=torch.int64)).logits
        except _FOREIGN as error:
            self.refuse(f"logits:{type(error).__name__}", "its logits can't be followed")
        if logits.shape != expected.shape or not torch.allclose(logits, expected, rtol=1e-4, atol=1e-5):
            self.refuse("logits", "its logits are not just what the head makes of the final hidden states")
        return name


class _Given(nn.Module):
    """Stands for all of a model but its head."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self._hidden = hidden

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPast:  # noqa: ANN401 - whatever transformers passes
        """Return the hidden states that are given."""
        return BaseModelOutputWithPast(last_hidden_state=self._hidden)


def _linears(module: nn.Module) -> list[str]:
    return [name for name, each in module.named_modules() if isinstance(each, nn.Linear)]


def _name_of(model: nn.Module, module: nn.Module | None) -> str:
    return next((name for name, each in model.named_modules() if each is module), "head")


def _parted(linears: dict[str, None]) -> tuple[set[str], set[str]]:
    """The linears to quantize and those to leave as they are."""
    kept = {
        name for name in linears if name.rpartition(".")[2] in ROUTERS or name.rpartition(".")[2].startswith(LATENTS)
    }
    return set(linears) - kept, kept
