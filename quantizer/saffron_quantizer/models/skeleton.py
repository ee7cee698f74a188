"""A model's modules without its weights: transformers' own classes, into which weights are put block by block."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from saffron_api.candidate import KvCache
from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_kernels.nn import Fp8Linear, Int8Linear, RmsNorm, StaticFp8Linear
from saffron_quantizer.device import require_fp8
from saffron_quantizer.models.compute import CPU
from saffron_quantizer.models.experts import unpack
from saffron_quantizer.models.kv_cache import Fp8KvCache
from saffron_quantizer.models.recognize import architecture_of
from saffron_quantizer.models.weightless import without_weights
from saffron_quantizer.precision import Activations, Precision

ROUNDING_LINEARS: dict[Activations, type[nn.Module]] = {
    Activations.INT8_PER_TOKEN: Int8Linear,
    Activations.FP8_PER_TOKEN: Fp8Linear,
    Activations.FP8_PER_TENSOR: StaticFp8Linear,
}
"""The modules that round their inputs as engines do, and compute from codes."""

_NORMS = {
    "Gemma2RMSNorm": True,
    "Gemma3RMSNorm": True,
    "LlamaRMSNorm": False,
    "MistralRMSNorm": False,
    "MixtralRMSNorm": False,
    "Phi3RMSNorm": False,
    "Qwen2RMSNorm": False,
    "Qwen3MoeRMSNorm": False,
    "Qwen3RMSNorm": False,
}
"""transformers' classes that `RmsNorm` computes, and whether the gain is one plus the weight."""

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

    def rows(self, name: str, rows: Tensor) -> Tensor:
        """Read some rows of a matrix, [n] int64 -> [n, d], checked."""
        ...

    def precision(self, weight: str) -> Precision | None:
        """Tell how a linear is computed; None where it is not quantized."""
        ...

    def require(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuse a folder that lacks a tensor or has it in another shape."""
        ...


class Skeleton:
    """The modules of one model. Parameters are on torch's meta device until loaded; buffers are real."""

    def __init__(self, source: WeightSource, dtype: torch.dtype, device: torch.device) -> None:
        """Build the modules.

        Args:
            source: where config and weights are.
            dtype: what is computed in; parameters are converted to it.
            device: where blocks are loaded, and what comes after them. What comes before them stays on the CPU.

        Raises:
            StageError: `ARCHITECTURE_UNSUPPORTED` if no row of our table fits config.json; `MODEL_MALFORMED` if
                transformers can't make sense of it or a tensor has another shape; `MODEL_INCOMPLETE` if one is missing;
                `GPU_UNUSABLE` if it computes with FP8 numbers and the card can't.
        """
        self.architecture = architecture_of(source)
        self.dtype = dtype
        self.device = device
        self._source = source
        self.model = without_weights(source.folder, dtype)
        self.config = self.model.config
        self._give_names_of_the_file()
        self.blocks: nn.ModuleList = self.model.get_submodule(self.architecture.blocks)
        for index, block in enumerate(self.blocks):
            self._make_linears(block, self.architecture.block(index))
        _move_buffers(self.blocks, device)
        _make_norms(self.model)
        self.kv_caches = self._kv_caches()
        # Before any work, so that a folder with a hole never becomes a checkpoint with one.
        for name, parameter in self.model.named_parameters():
            if name != f"{self.architecture.head}.weight" or not self.config.tie_word_embeddings:
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
        return self._load(self.blocks[index], self.architecture.block(index), tensors.__getitem__, self.device)

    @property
    def inner(self) -> nn.Module:
        """The module that embeds tokens, calls the blocks one after the other, and ends with a norm."""
        inner: nn.Module = self.model.get_submodule(self.architecture.blocks.rpartition(".")[0])
        return inner

    @property
    def final(self) -> list[tuple[str, nn.Module]]:
        """The modules after the last block that this model has, by name, in their order."""
        modules = dict(self.model.named_modules())
        return [(name, modules[name]) for name in self.architecture.final if name in modules]

    @property
    def length_limits(self) -> tuple[int, ...]:
        """Ascending lengths beyond which the model computes otherwise: with other rotary factors, or not at all."""
        rope = getattr(self.config, "rope_parameters", None) or {}
        found = (rope.get("original_max_position_embeddings"), self._positions)
        return tuple(sorted({limit for limit in found if limit is not None}))

    def require_positions(self, length: int) -> None:
        """Refuse sequences of more tokens than the model has positions.

        Raises:
            StageError: `SPEC_INVALID`.
        """
        if self._positions is not None and length > self._positions:
            subject = subject_of(f"tokens={length}(max_position_embeddings={self._positions})")
            raise StageError(Failure(reason=FailureReason.SPEC_INVALID, subject=subject))

    @property
    def _positions(self) -> int | None:
        found: int | None = getattr(self.config, "max_position_embeddings", None)
        return found

    @contextmanager
    def embedding(self, tokens: Iterable[Tensor]) -> Iterator["Embedding"]:
        """What comes before the first block, with its weights for as long as the context lasts.

        Of the tokens' embedding, which may be larger than all blocks, it has the rows of those that are given.

        Args:
            tokens: those that it will be called with, each of any shape, int64; a process may have none.
        """
        inner, final = self.inner, {module for _, module in self.final}
        prefix = self.architecture.blocks.rpartition(".")[0]
        parts = [
            (f"{prefix}.{name}", module)
            for name, module in inner.named_children()
            if module is not self.blocks and module not in final
        ]
        for name, module in parts:
            if name != self.architecture.embedding:
                self._load(module, name, self._source.read, CPU)
        none = torch.empty(0, dtype=torch.int64)
        try:
            with self._rows_alone(torch.unique(torch.cat([none, *(each.flatten() for each in tokens)]))):
                yield Embedding(self)
        finally:
            for _, module in parts:
                unload(module)

    @contextmanager
    def _rows_alone(self, tokens: Tensor) -> Iterator[None]:
        """Let the tokens' embedding know some tokens alone, [n] int64 in ascending order."""
        table, name = self.model.get_submodule(self.architecture.embedding), f"{self.architecture.embedding}.weight"
        whole = table.weight
        table.weight = nn.Parameter(self._source.rows(name, tokens).to(self.dtype), requires_grad=False)
        numbers = table.register_forward_pre_hook(lambda _, args: (torch.searchsorted(tokens, args[0]), *args[1:]))
        try:
            yield
        finally:
            numbers.remove()
            table.weight = whole

    @contextmanager
    def ending(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """What comes between the last block and the head, with its weights for as long as the context lasts."""
        modules = [self._load(module, name, self._source.read, self.device) for name, module in self.final]
        try:
            yield nn.Sequential(*modules)
        finally:
            for module in modules:
                unload(module)

    def load_all(self, device: torch.device) -> nn.Module:
        """Put all weights in and return the whole model, on a device."""
        tied = f"{self.architecture.head}.weight" if self.config.tie_word_embeddings else None
        parameters = {name: each for name, each in self.model.named_parameters() if name != tied}
        state = {name: self._source.read(name).to(device, each.dtype) for name, each in parameters.items()}
        if tied is not None:
            state[tied] = state[f"{self.architecture.embedding}.weight"]
        self.model.load_state_dict(state, strict=False, assign=True)
        # Buffers are left, such as the rotary embedding's frequencies.
        whole: nn.Module = self.model.to(device).requires_grad_(requires_grad=False)
        return whole

    def read_head(self) -> Tensor:
        """Read the output projection, [vocabulary, hidden]: its own, or the embedding where they are tied."""
        name = self.architecture.embedding if self.config.tie_word_embeddings else self.architecture.head
        return self._source.read(f"{name}.weight").to(self.device, self.dtype)

    def _kv_caches(self) -> list[Fp8KvCache] | None:
        """For each block what its keys and values go through, or None where they stay as they are."""
        if self._source.kv_cache is KvCache.NONE:
            return None
        prefixes = [f"{self.architecture.block(n)}.{self.architecture.attention}" for n in range(len(self.blocks))]
        return [Fp8KvCache(*(self._source.read(f"{prefix}.{scale}") for scale in _KV_SCALES)) for prefix in prefixes]

    def _give_names_of_the_file(self) -> None:
        for renamed in self.architecture.renamed:
            for name in [name for name, _ in self.model.named_modules() if fnmatchcase(name, renamed.module)]:
                _rename(self.model, name, renamed.leaf)

    def _make_linears(self, block: nn.Module, prefix: str) -> None:
        """Give each expert its linears, and each linear that rounds its inputs the module that does so."""
        if self.architecture.mixture is not None:
            unpack(block, self.architecture.mixture, self.dtype)
        for name, module in list(block.named_modules()):
            precision = self._source.precision(f"{prefix}.{name}.weight") if isinstance(module, nn.Linear) else None
            if precision is not None and precision.activations in ROUNDING_LINEARS:
                if precision.is_floating:
                    require_fp8(self.device)
                _replace(block, name, ROUNDING_LINEARS[precision.activations])

    def _load(self, module: nn.Module, prefix: str, read: Callable[[str], Tensor], device: torch.device) -> nn.Module:
        """Read each parameter of a module by its name in the checkpoint.

        Codes and scales are of the type that their module declares, all else of the one that is computed in.
        """
        state = {name: read(f"{prefix}.{name}").to(device, each.dtype) for name, each in module.named_parameters()}
        module.load_state_dict(state, strict=False, assign=True)
        return module.requires_grad_(requires_grad=False)


def unload(module: nn.Module) -> None:
    """Give back the memory of a module's parameters; its buffers stay."""
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            setattr(owner, name, _absent(parameter))


def _absent(parameter: Tensor) -> nn.Parameter:
    """A parameter of the same kind that takes no memory. `empty_like` would do, but imports sympy first."""
    return nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype, device="meta"), requires_grad=False)


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
        self.hidden = torch.empty(0)
        self.keywords: dict[str, Any] = {}

    def forward(self, hidden: Tensor, **keywords: Any) -> Tensor:  # noqa: ANN401 - whatever transformers passes
        """Keep both, and change nothing."""
        self.hidden, self.keywords = hidden, keywords
        return hidden


class Embedding:
    """What comes before the first block, as transformers computes it: its forward runs with recorders for blocks.

    So positions, scales and projections of the embedding are its own, and so are the masks (sliding in some layers,
    full in others) and the rotary embedding.
    """

    def __init__(self, skeleton: Skeleton) -> None:
        self._skeleton = skeleton

    def hidden(self, tokens: Tensor) -> Tensor:
        """What the first block reads, [rows, length] int64 -> [rows, length, hidden]."""
        return self._run(tokens)[0].hidden

    def inputs(self, tokens: Tensor) -> list[BlockInputs]:
        """What each block is called with for sequences as long as this one, [1, length] int64."""
        device = self._skeleton.device
        return [
            BlockInputs(with_tensors(recorder.keywords, lambda tensor: tensor.to(device)))
            for recorder in self._run(tokens)
        ]

    def _run(self, tokens: Tensor) -> list[_Recorder]:
        skeleton, inner = self._skeleton, self._skeleton.inner
        recorders = [_Recorder() for _ in skeleton.blocks]
        final = [name.rpartition(".")[2] for name, _ in skeleton.final]
        leaf = skeleton.architecture.blocks.rpartition(".")[2]
        with _children(inner, {leaf: nn.ModuleList(recorders), **{name: nn.Identity() for name in final}}):
            inner(tokens, use_cache=False)
        return recorders


@contextmanager
def _children(module: nn.Module, others: Mapping[str, nn.Module]) -> Iterator[None]:
    """Let other modules stand for some of a module's children."""
    own = {name: module.get_submodule(name) for name in others}
    for name, other in others.items():
        setattr(module, name, other)
    try:
        yield
    finally:
        for name, child in own.items():
            setattr(module, name, child)


def with_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:  # noqa: ANN401 - whatever a block is called with
    """The same with every tensor in it changed, in tuples and dictionaries, too."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(with_tensors(each, change) for each in value)
    if isinstance(value, dict):
        return {name: with_tensors(each, change) for name, each in value.items()}
    return value


def _move_buffers(module: nn.Module, device: torch.device) -> None:
    """Move what a module has besides parameters, which may still have no memory."""
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            setattr(owner, name, buffer.to(device))


def _rename(model: nn.Module, name: str, leaf: str) -> None:
    """Register a module under another name; its owner's code still finds it by the one that it knows."""
    parent, _, known = name.rpartition(".")
    owner = model.get_submodule(parent)
    module = owner.get_submodule(known)
    delattr(owner, known)
    owner.add_module(leaf, module)
    object.__setattr__(owner, known, module)


def _make_norms(model: nn.Module) -> None:
    """Let our norm stand for transformers' own, which takes half a dozen passes over memory."""
    for name, module in list(model.named_modules()):
        if (one_plus := _NORMS.get(type(module).__name__)) is not None:
            eps = module.eps if one_plus else module.variance_epsilon
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, RmsNorm(module.get_parameter("weight"), eps, one_plus=one_plus))


def _replace(block: nn.Module, name: str, kind: type[nn.Module]) -> None:
    parent, _, leaf = name.rpartition(".")
    linear = block.get_submodule(name)
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"{name} is no linear layer; the table of architectures is wrong")
    replacement = kind(linear.in_features, linear.out_features, bias=linear.bias is not None)
    setattr(block.get_submodule(parent), leaf, replacement)
