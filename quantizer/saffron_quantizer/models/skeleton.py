"""A model's modules without its weights: transformers' own classes, into which weights are put block by block."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from saffron_api.candidate import KvCache
from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.models.architectures import Architecture, find_architecture
from saffron_quantizer.models.fp8_linear import Fp8Linear, StaticFp8Linear
from saffron_quantizer.models.int8_linear import Int8Linear
from saffron_quantizer.models.kv_cache import Fp8KvCache
from saffron_quantizer.precision import Activations, Precision

ROUNDING_LINEARS: dict[Activations, type[nn.Module]] = {
    Activations.INT8_PER_TOKEN: Int8Linear,
    Activations.FP8_PER_TOKEN: Fp8Linear,
    Activations.FP8_PER_TENSOR: StaticFp8Linear,
}
"""The modules that round their inputs as engines do, and compute from codes."""

_KV_SCALES = ("k_scale", "v_scale")


class WeightSource(Protocol):
    """Something that has a model's tensors by name."""

    folder: Path
    config: dict[str, Any]

    @property
    def kv_cache(self) -> KvCache:
        """How keys and values are kept."""
        ...

    def read(self, name: str) -> Tensor:
        """Read one tensor, checked."""
        ...

    def precision(self, weight: str) -> Precision | None:
        """Tell how a linear is computed; None where it is not quantized."""
        ...

    def require(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuse a folder that lacks a tensor or has it in another shape."""
        ...


class Skeleton:
    """The modules of one model. Parameters are on torch's meta device until loaded; buffers are real."""

    def __init__(self, source: WeightSource, dtype: torch.dtype) -> None:
        """Build the modules.

        Args:
            source: where config and weights are.
            dtype: what is computed in; parameters are converted to it.

        Raises:
            StageError: `ARCHITECTURE_UNSUPPORTED` if no row of our table fits config.json; `MODEL_MALFORMED` if
                transformers can't make sense of it or a tensor has another shape; `MODEL_INCOMPLETE` if one is missing.
        """
        self.architecture = architecture_of(source.config)
        self.dtype = dtype
        self._source = source
        try:
            config = transformers.AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
            with no_init_weights(), init_empty_weights(include_buffers=False):
                self.model = transformers.AutoModelForCausalLM.from_config(
                    config, dtype=dtype, attn_implementation="sdpa"
                )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StageError(Failure(reason=FailureReason.MODEL_MALFORMED, subject="config.json")) from error
        self.config = config
        self.model.eval()
        self.blocks: nn.ModuleList = self.model.get_submodule(self.architecture.blocks)
        for index, block in enumerate(self.blocks):
            for name in self.architecture.linears:
                precision = source.precision(f"{self.architecture.block(index)}.{name}.weight")
                if precision is not None and precision.activations in ROUNDING_LINEARS:
                    _replace(block, name, ROUNDING_LINEARS[precision.activations])
        self.kv_caches = self._kv_caches()
        # Before any work, so that a folder with a hole never becomes a checkpoint with one.
        for name, parameter in self.model.named_parameters():
            if name != f"{self.architecture.head}.weight" or not config.tie_word_embeddings:
                source.require(name, tuple(parameter.shape))

    def read_block(self, index: int) -> dict[str, Tensor]:
        """Read what a block computes with, by the names in the checkpoint."""
        prefix = self.architecture.block(index)
        types = {f"{prefix}.{name}": each.dtype for name, each in self.blocks[index].named_parameters()}
        return {name: self._source.read(name).to(dtype) for name, dtype in types.items()}

    def load_block(self, index: int, tensors: Mapping[str, Tensor]) -> nn.Module:
        """Put a block's weights into its modules and return it. `unload` gives the memory back.

        Args:
            index: of the block.
            tensors: at least what `read_block` gives, as stored or as computed with.
        """
        return self._load(self.blocks[index], self.architecture.block(index), tensors.__getitem__)

    def load_embedding(self) -> nn.Module:
        """Put its weights into the token embedding and return it."""
        name = self.architecture.embedding
        return self._load(self.model.get_submodule(name), name, self._source.read)

    def load_final_norm(self) -> nn.Module:
        """Put its weights into the norm after the last block and return it."""
        name = self.architecture.final_norm
        return self._load(self.model.get_submodule(name), name, self._source.read)

    def read_head(self) -> Tensor:
        """Read the output projection, [vocabulary, hidden]: its own, or the embedding where they are tied."""
        name = self.architecture.embedding if self.config.tie_word_embeddings else self.architecture.head
        return self._source.read(f"{name}.weight").to(self.dtype)

    def _kv_caches(self) -> list[Fp8KvCache] | None:
        """For each block what its keys and values go through, or None where they stay as they are."""
        if self._source.kv_cache is KvCache.NONE:
            return None
        prefixes = [f"{self.architecture.block(n)}.{self.architecture.attention}" for n in range(len(self.blocks))]
        return [Fp8KvCache(*(self._source.read(f"{prefix}.{scale}") for scale in _KV_SCALES)) for prefix in prefixes]

    def _load(self, module: nn.Module, prefix: str, read: Callable[[str], Tensor]) -> nn.Module:
        """Read each parameter of a module by its name in the checkpoint.

        Codes and scales are of the type that their module declares, all else of the one that is computed in.
        """
        state = {name: read(f"{prefix}.{name}").to(each.dtype) for name, each in module.named_parameters()}
        module.load_state_dict(state, strict=False, assign=True)
        return module.requires_grad_(requires_grad=False)


def unload(module: nn.Module) -> None:
    """Give back the memory of a module's parameters; its buffers stay."""
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            setattr(owner, name, nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False))


def architecture_of(config: dict[str, Any]) -> Architecture:
    """The row of our table for a config.json.

    Raises:
        StageError: `ARCHITECTURE_UNSUPPORTED`.
    """
    names = config.get("architectures") or ["(none)"]
    found = find_architecture(str(names[0]), str(config.get("model_type")))
    if found is None:
        subject = subject_of(f"{names[0]}({config.get('model_type')})")
        raise StageError(Failure(reason=FailureReason.ARCHITECTURE_UNSUPPORTED, subject=subject))
    return found


@dataclass(frozen=True)
class BlockInputs:
    """What a block is called with besides hidden states.

    Attributes:
        keywords: attention mask, rotary embedding and the rest, for one row; they broadcast over a batch.
    """

    keywords: dict[str, Any]


class _Recorder(nn.Module):
    """Stands where a block was and keeps what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.keywords: dict[str, Any] = {}

    def forward(self, hidden: Tensor, **keywords: Any) -> Tensor:  # noqa: ANN401 - whatever transformers passes
        """Keep the keywords, and change nothing."""
        self.keywords = keywords
        return hidden


def block_inputs(skeleton: Skeleton, length: int) -> list[BlockInputs]:
    """What each block is called with for sequences of a length.

    Masks (sliding in some layers, full in others) and rotary embeddings are transformers' own: its forward runs with
    recorders in the place of the blocks.
    """
    inner = skeleton.model.get_submodule(skeleton.architecture.blocks.rpartition(".")[0])
    recorders = [_Recorder() for _ in skeleton.blocks]
    norm = inner.norm
    inner.layers, inner.norm = nn.ModuleList(recorders), nn.Identity()
    try:
        inner(inputs_embeds=torch.zeros(1, length, skeleton.config.hidden_size, dtype=skeleton.dtype), use_cache=False)
    finally:
        inner.layers, inner.norm = skeleton.blocks, norm
    return [BlockInputs(recorder.keywords) for recorder in recorders]


def _replace(block: nn.Module, name: str, kind: type[nn.Module]) -> None:
    parent, _, leaf = name.rpartition(".")
    linear = block.get_submodule(name)
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"{name} is no linear layer; the table of architectures is wrong")
    replacement = kind(linear.in_features, linear.out_features, bias=linear.bias is not None)
    setattr(block.get_submodule(parent), leaf, replacement)
