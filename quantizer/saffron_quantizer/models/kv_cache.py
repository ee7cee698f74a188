"""Keys and values on their way into the cache: what they span, and what an engine's FP8 cache makes of them.

A block hands its keys, normed and rotated, and its values to the cache it is called with and attends to what the cache
gives back. So a cache of our own sees, and can change, exactly what an engine stores.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.algorithms.fp8 import to_fp8

_KEYWORDS = ("past_key_values", "layer_past")
"""What transformers calls the cache in the arguments of a block."""


class KvCache(Protocol):
    """The part of a cache that a block uses."""

    def update(self, keys: Tensor, values: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Take keys and values, [rows, heads, length, head size], and give those to attend to."""
        ...


class Fp8KvCache:
    """Gives back what an engine reads from a cache in FP8 with one scale for keys and one for values."""

    def __init__(self, k_scale: Tensor, v_scale: Tensor) -> None:
        """Take the scales, [1] float32 each."""
        self._k_scale, self._v_scale = k_scale, v_scale

    def update(self, keys: Tensor, values: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Round both."""
        return _through_fp8(keys, self._k_scale), _through_fp8(values, self._v_scale)


class RoundingCache(DynamicCache):  # type: ignore[misc] # transformers' classes have no types
    """All keys and values of a sequence, as an engine reads them from a cache in FP8."""

    def __init__(self, config: Any, blocks: Sequence[Fp8KvCache]) -> None:  # noqa: ANN401 - as above
        """Begin with nothing in it.

        Args:
            config: transformers', of the model.
            blocks: what each block's keys and values go through.
        """
        super().__init__(config=config)
        self._blocks = blocks

    def update(self, keys: Tensor, values: Tensor, block: int, *rest: Any, **others: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - whatever transformers passes
        """Round both, and add them to those of a block."""
        rounded = self._blocks[block].update(keys, values)
        kept: tuple[Tensor, Tensor] = super().update(*rounded, block, *rest, **others)
        return kept


class RangeKvCache:
    """Gives back what it gets and keeps the largest magnitudes of real tokens.

    Attributes:
        keys: the largest magnitude of a key's element, float32 scalar.
        values: of a value's.
    """

    def __init__(self, device: torch.device) -> None:
        self.keys, self.values = torch.zeros((), device=device), torch.zeros((), device=device)
        self.real = torch.ones(1, 1, dtype=torch.bool)
        self.updates = 0

    def update(self, keys: Tensor, values: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Look at both; `real`, [rows, length], says which tokens count."""
        real = self.real[:, None, :, None]
        self.keys = torch.maximum(self.keys, (keys.abs() * real).amax().float())
        self.values = torch.maximum(self.values, (values.abs() * real).amax().float())
        self.updates += 1
        return keys, values


def with_cache(keywords: Mapping[str, Any], cache: KvCache, block: str) -> dict[str, Any]:
    """A block's arguments with a cache among them.

    Raises:
        StageError: `ARCHITECTURE_UNSUPPORTED` if the block takes none.
    """
    name = next((name for name in _KEYWORDS if name in keywords), None)
    if name is None:
        raise no_cache(block)
    return {**keywords, name: cache}


def no_cache(block: str) -> StageError:
    """The error for a block whose keys and values can't be reached."""
    subject = subject_of(f"{block}(kvCache=FP8)")
    return StageError(Failure(reason=FailureReason.ARCHITECTURE_UNSUPPORTED, subject=subject))


def _through_fp8(x: Tensor, scale: Tensor) -> Tensor:
    scale = scale.to(x.device)
    # By a product with the reciprocal, as vLLM.
    return (to_fp8(x.float() * scale.reciprocal()).float() * scale).to(x.dtype)
