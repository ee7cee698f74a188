"""Weights by name as a model computes with them: read as stored, or dequantized from our own formats."""

from pathlib import Path

import torch
from torch import Tensor

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.checkpoint.formats import StoredFormat, format_of, unpack
from saffron_quantizer.checkpoint.reader import CheckpointReader


class ModelSource:
    """The weights of a folder: an original's, or those of a checkpoint that we wrote."""

    def __init__(self, reader: CheckpointReader, stored_format: StoredFormat | None) -> None:
        self._reader = reader
        self._format = stored_format
        self.folder = reader.folder
        self.config = reader.config

    @property
    def int8_activations(self) -> bool:
        """Whether linears round their activations to int8."""
        return self._format is StoredFormat.INT_QUANTIZED

    @property
    def stored_dtype(self) -> torch.dtype:
        """The type of the unquantized weights, as in most tensors of the folder."""
        floating = [entry for entry in self._reader.entries.values() if entry.dtype.is_floating_point]
        return max(floating, key=lambda entry: entry.elements).dtype if floating else torch.float32

    def has(self, name: str) -> bool:
        """Whether the folder has a tensor, or one that it is dequantized from."""
        return name in self._reader.entries or f"{name}_packed" in self._reader.entries

    def read(self, name: str) -> Tensor:
        """Read a tensor, or dequantize it: code times scale, rounded to the scale's type as engines do."""
        if self._format is StoredFormat.PACK_QUANTIZED and f"{name}_packed" in self._reader.entries:
            scale = self._reader.read(f"{name}_scale")  # [O, G]
            rows, columns = self._reader.read(f"{name}_shape").tolist()
            codes = unpack(self._reader.read(f"{name}_packed"), columns)  # [O, I]
            groups = scale.shape[1]
            if codes.shape != (rows, columns) or scale.shape[0] != rows or columns % groups:
                raise StageError(Failure(reason=FailureReason.MODEL_MALFORMED, subject=subject_of(f"tensor {name}")))
            values = codes.float().reshape(rows, groups, -1) * scale.float()[:, :, None]
            return values.reshape(rows, columns).to(scale.dtype)
        return self._reader.read(name)


def open_source(folder: Path) -> ModelSource:
    """Open a model folder.

    Raises:
        StageError: as for `CheckpointReader`; `ARCHITECTURE_UNSUPPORTED` if it is quantized in another way than ours.
    """
    reader = CheckpointReader(folder)
    return ModelSource(reader, format_of(reader.config))
