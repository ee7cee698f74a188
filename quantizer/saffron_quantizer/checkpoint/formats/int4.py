"""What AutoAWQ's layout and GPTQ's have in common: 4-bit codes in words of 32 bits, and one precision for a checkpoint.

Scales are float16 whatever the model's type.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saffron_api.candidate import GROUP_SIZES, KvCache, Scheme
from saffron_quantizer.algorithms.quantized import Quantized
from saffron_quantizer.checkpoint.formats.format import Format, Read, Recognized, not_ours
from saffron_quantizer.precision import Precision

BITS = 4
PER_WORD = 8
"""Codes in a word."""

Skips = Callable[[str], bool]
"""Whether a module is left as it is, by its full name."""

_WRITTEN = tuple(Precision(Scheme.W4A16, size) for size in GROUP_SIZES)
"""Every precision that we write in these formats."""


@dataclass(frozen=True)
class Int4Config:
    """How a format's `quantization_config` is written and read.

    Attributes:
        method: its `quant_method`.
        constants: what else is the same in every one that we write.
        skipped: the key that says which modules are left as they are.
        write: names of modules -> what the key has.
        read: what the key has -> which modules it means, or None if we do not write such.
    """

    method: str
    constants: Mapping[str, Any]
    skipped: str
    write: Callable[[tuple[str, ...]], Any]
    read: Callable[[Any], Skips | None]

    def config(
        self, precisions: Mapping[str, Precision], unquantized: tuple[str, ...], kv_cache: KvCache
    ) -> dict[str, Any]:
        """As `Format.config`."""
        del kv_cache  # the API asks for none with these formats
        (precision,) = set(precisions.values())
        return {**self._base(precision), self.skipped: self.write(unquantized)}

    def recognize(self, config: Mapping[str, Any]) -> Recognized | None:
        """As `Format.recognize`."""
        if config.get("quant_method") != self.method:
            return None
        base = {key: value for key, value in config.items() if key != self.skipped}
        precision = next((each for each in _WRITTEN if self._base(each) == base), None)
        skips = self.read(config.get(self.skipped))
        if precision is None or skips is None:
            raise not_ours(self.method)
        return Recognized(lambda module: None if skips(module) else precision)

    def _base(self, precision: Precision) -> dict[str, Any]:
        """What does not depend on the modules."""
        return {"quant_method": self.method, "bits": BITS, "group_size": precision.group_size, **self.constants}


def int4_format(
    config: Int4Config,
    *,
    stored: Callable[[str, Quantized, Precision], dict[str, Tensor]],
    restored: Callable[[str, Precision, Read], Quantized],
    words: Callable[[int, int, int], int],
) -> Format:
    """A format of this kind.

    Args:
        config: its `quantization_config`.
        stored: as `Format.stored`.
        restored: as `Format.restored`.
        words: (rows, columns, groups) -> int32 numbers that one weight takes.
    """

    def stored_bytes(precision: Precision, rows: int, columns: int, model: torch.dtype) -> int:
        del model  # the scales' type does not depend on it
        groups = precision.groups(columns)
        return words(rows, columns, groups) * torch.int32.itemsize + groups * rows * torch.float16.itemsize

    return Format(
        stored=stored,
        restored=restored,
        scale_name=lambda weight: f"{module_of(weight)}.scales",
        scale_dtype=lambda precision, model: torch.float16,  # noqa: ARG005 - always
        stored_bytes=stored_bytes,
        config=config.config,
        recognize=config.recognize,
        row_multiple=PER_WORD,
    )


def module_of(weight: str) -> str:
    """The name of the linear that has a weight."""
    return weight.removesuffix(".weight")
