"""Weights by name as a model computes with them: read as stored, or dequantized from our own formats."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from saffron_api.candidate import KvCache
from saffron_quantizer.algorithms.quantized import Quantized
from saffron_quantizer.checkpoint.formats.format import Format, Recognized
from saffron_quantizer.checkpoint.formats.registry import quantization_of
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.checkpoint.tensor_file import malformed
from saffron_quantizer.precision import Activations, Precision


class ModelSource:
    """The weights of a folder: an original's, or those of a checkpoint that we wrote."""

    def __init__(self, reader: CheckpointReader, quantization: tuple[Format, Recognized] | None) -> None:
        self._reader = reader
        self._quantization = quantization
        self.folder = reader.folder
        self.config = reader.config

    def precision(self, weight: str) -> Precision | None:
        """The precision of a linear's weight by its name; None for any tensor that is stored as it was."""
        if self._quantization is None:
            return None
        layout, recognized = self._quantization
        if layout.scale_name(weight) not in self._reader.entries:
            return None
        return recognized.assignment(weight.removesuffix(".weight"))

    @property
    def kv_cache(self) -> KvCache:
        """How an engine keeps keys and values of this model."""
        return KvCache.NONE if self._quantization is None else self._quantization[1].kv_cache

    @property
    def stored_dtype(self) -> torch.dtype:
        """The type of the unquantized weights: that of the largest, the codes of FP8 aside."""
        types = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
        floating = [entry for entry in self._reader.entries.values() if entry.dtype in types]
        return max(floating, key=lambda entry: entry.elements).dtype if floating else torch.float32

    def require(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuse a folder that lacks a tensor or has it in another shape; a packed one's is seen when it is read.

        Raises:
            StageError: `MODEL_INCOMPLETE` or `MODEL_MALFORMED`.
        """
        is_packed = name not in self._reader.entries and self.precision(name) is not None
        if not is_packed and self._reader.entry(name).shape != shape:
            raise malformed(name)

    def rows(self, name: str, rows: Tensor) -> Tensor:
        """Read some rows of a matrix as a model computes with it, [n] int64 -> [n, d]."""
        return self._reader.rows(name, rows) if self.precision(name) is None else self.read(name)[rows]

    def read(self, name: str) -> Tensor:
        """Read a tensor as a model computes with it: dequantized, or as codes where inputs are rounded, too."""
        quantized = self.weight_only(name)
        return self._reader.read(name) if quantized is None else quantized.dequantize()

    def weight_only(self, name: str) -> Quantized | None:
        """Read the codes and scales of a weight whose inputs stay as they are; None for any other tensor."""
        precision = self.precision(name)
        if self._quantization is None or precision is None or precision.activations is not Activations.AS_THEY_ARE:
            return None
        quantized = self._quantization[0].restored(name, precision, self._reader.read)
        # Engines hold the scales in the model's type, whatever they are stored in.
        return replace(quantized, scale=quantized.scale.to(self.stored_dtype))


def open_source(folder: Path) -> ModelSource:
    """Open a model folder.

    Raises:
        StageError: as for `CheckpointReader`; `ARCHITECTURE_UNSUPPORTED` if it is quantized in another way than ours.
    """
    reader = CheckpointReader(folder)
    return ModelSource(reader, quantization_of(reader.config))
