"""Weights by name as a model computes with them: read as stored, or dequantized from our own formats."""

from pathlib import Path

import torch
from torch import Tensor

from saffron_api.candidate import Scheme
from saffron_quantizer.checkpoint.formats import dequantize, scheme_of
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.checkpoint.tensor_file import malformed


class ModelSource:
    """The weights of a folder: an original's, or those of a checkpoint that we wrote."""

    def __init__(self, reader: CheckpointReader, scheme: Scheme | None) -> None:
        self._reader = reader
        self._scheme = scheme
        self.folder = reader.folder
        self.config = reader.config

    @property
    def int8_activations(self) -> bool:
        """Whether linears round their activations to int8."""
        return self._scheme is Scheme.W8A8

    @property
    def stored_dtype(self) -> torch.dtype:
        """The type of the unquantized weights, as in most tensors of the folder."""
        floating = [entry for entry in self._reader.entries.values() if entry.dtype.is_floating_point]
        return max(floating, key=lambda entry: entry.elements).dtype if floating else torch.float32

    def require(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuse a folder that lacks a tensor or has it in another shape; a packed one's is seen when it is read.

        Raises:
            StageError: `MODEL_INCOMPLETE` or `MODEL_MALFORMED`.
        """
        if f"{name}_packed" not in self._reader.entries and self._reader.entry(name).shape != shape:
            raise malformed(name)

    def read(self, name: str) -> Tensor:
        """Read a tensor as stored, or dequantized where it is packed."""
        if self._scheme is not None and f"{name}_packed" in self._reader.entries:
            return dequantize(self._scheme, name, self._reader.read)
        return self._reader.read(name)


def open_source(folder: Path) -> ModelSource:
    """Open a model folder.

    Raises:
        StageError: as for `CheckpointReader`; `ARCHITECTURE_UNSUPPORTED` if it is quantized in another way than ours.
    """
    reader = CheckpointReader(folder)
    return ModelSource(reader, scheme_of(reader.config))
