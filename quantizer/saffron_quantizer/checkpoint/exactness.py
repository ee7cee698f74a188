"""Proof that what was written is what was computed: each layout is undone at once, and each file read again.

A layout that could not be undone, or a disk that changes bytes, would spoil a checkpoint that looks whole.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.algorithms.quantized import Quantized
from saffron_quantizer.checkpoint.formats.format import Format
from saffron_quantizer.checkpoint.tensor_file import TensorEntry, pieces_of, read_header, read_pieces
from saffron_quantizer.checkpoint.writer import copy_tensors, write_tensors
from saffron_quantizer.precision import Precision


def stored_exactly(layout: Format, weight: str, quantized: Quantized, precision: Precision) -> dict[str, Tensor]:
    """The tensors that stand for a weight, from which the layout gives the very same codes, scales and zero points.

    Raises:
        StageError: `INTERNAL` if it gives others.
    """
    stored = layout.stored(weight, quantized, precision)
    restored = layout.restored(weight, precision, stored.__getitem__)
    same = [
        _same(restored.codes, quantized.codes),
        _same(restored.scale, quantized.scale),
        _same(_zeros(restored), _zeros(quantized)),
    ]
    if not all(same):
        subject = subject_of(f"{weight}:layout")
        raise StageError(Failure(reason=FailureReason.INTERNAL, subject=subject))
    return stored


def write_exactly(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file and read it again.

    Raises:
        StageError: `STORAGE_FULL`; `INPUT_OUTPUT` if a tensor reads otherwise than it was written, and then the file is
            gone again.
    """
    write_tensors(path, tensors)
    _require_same(path, tensors, lambda name: pieces_of(tensors[name]))


def copy_exactly(path: Path, entries: Mapping[str, TensorEntry], pieces: Callable[[str], Iterable[Tensor]]) -> None:
    """Copy tensors into a safetensors file, as `copy_tensors` does, and read both again.

    Raises:
        StageError: as for `write_exactly`, or what `pieces` raises.
    """
    copy_tensors(path, entries, pieces)
    _require_same(path, entries, pieces)


def _require_same(
    path: Path, wanted: Mapping[str, Tensor | TensorEntry], pieces: Callable[[str], Iterable[Tensor]]
) -> None:
    written = read_header(path)
    for name, each in wanted.items():
        alike = written[name].dtype == each.dtype and written[name].shape == tuple(each.shape)
        if not alike or not all(map(_same, read_pieces(written[name]), pieces(name))):
            path.unlink()
            raise StageError(Failure(reason=FailureReason.INPUT_OUTPUT, subject=subject_of(f"{path.name}({name})")))


def _zeros(quantized: Quantized) -> Tensor:
    if quantized.zero is None:
        return torch.zeros(quantized.scale.shape, dtype=torch.int8, device=quantized.scale.device)
    return quantized.zero


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are of one type and have the same bytes."""
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(_bytes(one), _bytes(other))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
