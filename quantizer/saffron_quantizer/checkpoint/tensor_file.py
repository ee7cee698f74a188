"""One safetensors file: its header, read by our own parser, and its tensors, read by pread.

The layout is 8 bytes of little-endian length, that many bytes of JSON, then the tensors' bytes. Nothing is mapped
into memory, so that a folder on a network volume can't kill the process with SIGBUS and resident memory stays ours.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.memory import own_mapping

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
_PIECE_BYTES = 1 << 20
"""What is larger, and read in one, gets a mapping of its own: in the heap it would leave a hole of its size."""

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What the names of element types in a header mean."""


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies.

    Attributes:
        path: the file.
        dtype: type of its elements.
        shape: its shape.
        offset: of its first byte, from the start of the file.
    """

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """How many bytes it has on disk."""
        return self.elements * self.dtype.itemsize


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Read where each tensor of a file lies.

    Raises:
        StageError: `MODEL_INCOMPLETE` if there is no such file; `MODEL_MALFORMED` if it is no safetensors file, is cut
            short, or says of a tensor what can't be.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if not 0 < length <= min(size - _LENGTH_BYTES, _MAX_HEADER_BYTES):
                raise malformed(path.name)
            header = json.loads(file.read(length))
    except FileNotFoundError as error:
        raise incomplete(path.name) from error
    except ValueError as error:
        raise malformed(path.name) from error
    if not isinstance(header, dict):
        raise malformed(path.name)
    data = _LENGTH_BYTES + length
    return {
        name: _entry(path, entry, data=data, size=size, name=name)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _entry(path: Path, entry: Mapping[str, Any], *, data: int, size: int, name: str) -> TensorEntry:
    """Check one tensor's part of the header."""
    try:
        dtype = DTYPES[entry["dtype"]]
        shape = tuple(int(extent) for extent in entry["shape"])
        begin, end = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise malformed(f"{path.name}({name})") from error
    found = TensorEntry(path, dtype, shape, data + begin)
    if begin < 0 or min(shape, default=0) < 0 or end - begin != found.bytes or data + end > size:
        raise malformed(f"{path.name}({name})")
    return found


def read_entry(entry: TensorEntry) -> Tensor:
    """Read one tensor's bytes into memory of its own.

    Raises:
        StageError: `MODEL_MALFORMED` if the file ends before the tensor does.
    """
    raw = _room(entry.bytes)
    if entry.bytes:
        with entry.path.open("rb") as file:
            _fill(file.fileno(), raw.numpy().data, entry.offset, entry.path.name)
    return raw.view(entry.dtype).reshape(entry.shape)


def _room(size: int) -> Tensor:
    if size <= _PIECE_BYTES:
        return torch.empty(size, dtype=torch.uint8)
    return torch.frombuffer(own_mapping(size), dtype=torch.uint8)


def read_pieces(entry: TensorEntry) -> Iterator[Tensor]:
    """Read one tensor piece by piece, each [n] and of at most 1 MiB, in memory of its own.

    Raises:
        StageError: as for `read_entry`.
    """
    elements = _PIECE_BYTES // entry.dtype.itemsize
    for begin in range(0, entry.elements, elements):
        count = min(elements, entry.elements - begin)
        offset = entry.offset + begin * entry.dtype.itemsize
        yield read_entry(TensorEntry(entry.path, entry.dtype, (count,), offset))


def pieces_of(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor as `read_pieces` gives it."""
    return iter(torch.split(tensor.contiguous().reshape(-1), _PIECE_BYTES // tensor.dtype.itemsize))


def read_rows(entry: TensorEntry, rows: Tensor) -> Tensor:
    """Read some rows of a matrix.

    Args:
        entry: of a matrix [R, d].
        rows: [n] int64.

    Returns:
        [n, d].

    Raises:
        StageError: as for `read_entry`.
    """
    columns = entry.shape[1]
    raw = torch.empty(len(rows), columns * entry.dtype.itemsize, dtype=torch.uint8)
    with entry.path.open("rb") as file:
        for row, place in zip(rows.tolist(), raw.numpy(), strict=True):
            _fill(file.fileno(), place.data, entry.offset + row * len(place), entry.path.name)
    return raw.view(entry.dtype)


def _fill(descriptor: int, buffer: memoryview, offset: int, name: str) -> None:
    """Fill a buffer by pread, which returns at most 2 GiB at once."""
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:]], offset + done)
        if count == 0:
            raise malformed(name)
        done += count


def malformed(what: str) -> StageError:
    """The error for a file of the model that can't be read."""
    return StageError(Failure(reason=FailureReason.MODEL_MALFORMED, subject=subject_of(what)))


def incomplete(what: str) -> StageError:
    """The error for a file or tensor that the model lacks."""
    return StageError(Failure(reason=FailureReason.MODEL_INCOMPLETE, subject=subject_of(what)))
