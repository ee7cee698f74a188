"""A whole model in memory, for generating text: its linears compute from the codes as they are stored."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from saffron_kernels.nn import W4A16Linear, W8A16Linear
from saffron_kernels.quantize_pack import Layout, pack
from saffron_quantizer.algorithms.quantized import Quantized
from saffron_quantizer.checkpoint.source import ModelSource, open_source
from saffron_quantizer.checkpoint.tensor_file import malformed
from saffron_quantizer.models.compute import CPU, compute_dtype
from saffron_quantizer.models.kv_cache import RoundingCache
from saffron_quantizer.models.skeleton import Skeleton

_GENERATION_CONFIG = "generation_config.json"
_INT4 = 4


class WholeModel:
    """A causal language model with all its weights.

    Attributes:
        dtype: what is computed in.
        stop_tokens: ids that end a text.
    """

    def __init__(self, source: ModelSource, device: torch.device) -> None:
        self.dtype = compute_dtype(source.stored_dtype, device)
        self.stop_tokens = _stop_tokens(source)
        self._skeleton = Skeleton(source, self.dtype, CPU)
        _compute_from_codes(self._skeleton, source, device)
        self._model = self._skeleton.load_all(device)
        self._model.get_submodule(self._skeleton.architecture.head).register_forward_pre_hook(_as_a_matrix)
        self._device = device

    @staticmethod
    def open(folder: Path, device: torch.device) -> "WholeModel":
        """Read an original, or a checkpoint that we wrote, into memory.

        Args:
            folder: config.json and safetensors.
            device: where it is to compute.

        Raises:
            StageError: the folder is missing, unsafe, incomplete, malformed or of an unknown architecture.
        """
        return WholeModel(open_source(folder), device)

    @property
    def bytes(self) -> int:
        """Memory that the weights take; one that two modules share counts once."""
        tensors = {each.data_ptr(): each for each in (*self._model.parameters(), *self._model.buffers())}
        return sum(each.nbytes for each in tensors.values())

    def require_positions(self, length: int) -> None:
        """Refuse sequences of more tokens than the model has positions.

        Raises:
            StageError: `SPEC_INVALID`.
        """
        self._skeleton.require_positions(length)

    def new_cache(self) -> Cache:
        """A cache for the keys and values of one sequence, with nothing in it."""
        config, rounding = self._skeleton.config, self._skeleton.kv_caches
        return DynamicCache(config=config) if rounding is None else RoundingCache(config, rounding)

    @torch.inference_mode()
    def next_logits(self, tokens: Sequence[int], cache: Cache) -> Tensor:
        """The logits of the token after these, [vocabulary] float32.

        Args:
            tokens: what follows those whose keys and values are in the cache.
            cache: of the sequence; the keys and values of these tokens are added.
        """
        ids = torch.tensor([list(tokens)], device=self._device)
        output = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits: Tensor = output.logits[-1]
        return logits.float()


def _as_a_matrix(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """What the head reads, [1, T, hidden], as [T, hidden].

    The last token's part of a longer tensor has strides with which torch 2.13 takes the product for one of two batches,
    which on a CPU takes it 70 times as long in bfloat16.
    """
    return inputs[0].reshape(-1, inputs[0].shape[-1])


def _compute_from_codes(skeleton: Skeleton, source: ModelSource, device: torch.device) -> None:
    """Give each linear of which only the weight is rounded a module that has its codes.

    Where a whole block walks over many tokens, as in an evaluation, weights that are dequantized once are faster.
    """
    for index, block in enumerate(skeleton.blocks):
        for name, linear in list(block.named_modules()):
            weight = f"{skeleton.architecture.block(index)}.{name}.weight"
            quantized = source.weight_only(weight) if isinstance(linear, nn.Linear) else None
            precision = source.precision(weight)
            if quantized is not None and precision is not None:
                has_bias = getattr(linear, "bias", None) is not None
                block.set_submodule(name, _weight_only(quantized, precision.bits, device, bias=has_bias))


def _weight_only(quantized: Quantized, bits: int, device: torch.device, *, bias: bool) -> nn.Module:
    """The module for codes of so many bits, whatever format they were stored in."""
    columns = quantized.codes.shape[1]
    packed = pack(quantized.codes, bits, Layout.COMPRESSED_TENSORS).to(device)
    scale = quantized.scale.to(device)
    if bits != _INT4:
        return W8A16Linear(packed, scale, columns, bias=bias)
    zero = quantized.zero
    if zero is not None:
        # Along the outputs, not along the groups.
        zero = pack(zero.T.contiguous(), _INT4, Layout.COMPRESSED_TENSORS).T.to(device)
    return W4A16Linear(packed, scale, zero, columns, bias=bias)


def _stop_tokens(source: ModelSource) -> frozenset[int]:
    """The ids that end a text: as generation_config.json has them, which may know more of them than config.json."""
    config: Any = source.config
    path = source.folder / _GENERATION_CONFIG
    if path.is_file():
        try:
            config = {**config, **json.loads(path.read_bytes())}
        except (ValueError, TypeError) as error:
            raise malformed(_GENERATION_CONFIG) from error
    found = config.get("eos_token_id")
    return frozenset([] if found is None else found if isinstance(found, list) else [found])
