"""A model folder of safetensors: which tensors it has, and each of them checked as it is read."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.checkpoint.tensor_file import (
    TensorEntry,
    incomplete,
    malformed,
    read_entry,
    read_header,
    read_pieces,
    read_rows,
)

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class CheckpointReader:
    """The tensors of a model folder by name. It holds headers in memory, never weights."""

    def __init__(self, folder: Path) -> None:
        """Find the folder's weights.

        Raises:
            StageError: `MODEL_MISSING` without a config.json, `MODEL_UNSAFE` if the weights are a pickle,
                `MODEL_INCOMPLETE` without weights or without a shard that the index names, `MODEL_AMBIGUOUS` if there
                is a single file besides the shards, `MODEL_MALFORMED` for a file that can't be read.
        """
        self.folder = folder
        self.config = read_config(folder)
        self.entries = _entries(folder)

    def read(self, name: str) -> Tensor:
        """Read a tensor into memory.

        Raises:
            StageError: `MODEL_INCOMPLETE` if there is none of that name, `MODEL_NOT_FINITE` if it holds NaN or
                infinity, `MODEL_MALFORMED` if its file is cut short.
        """
        return _finite(name, read_entry(self.entry(name)))

    def pieces(self, name: str) -> Iterator[Tensor]:
        """Read a tensor piece by piece, each [n].

        Raises:
            StageError: as for `read`.
        """
        return (_finite(name, piece) for piece in read_pieces(self.entry(name)))

    def rows(self, name: str, rows: Tensor) -> Tensor:
        """Read some rows of a matrix, [n] int64 -> [n, d].

        Raises:
            StageError: as for `read`.
        """
        return _finite(name, read_rows(self.entry(name), rows))

    def entry(self, name: str) -> TensorEntry:
        """Where a tensor lies.

        Raises:
            StageError: `MODEL_INCOMPLETE` if there is none of that name.
        """
        if name not in self.entries:
            raise incomplete(name)
        return self.entries[name]

    @property
    def bytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(entry.bytes for entry in self.entries.values())

    @property
    def parameters(self) -> int:
        """Elements of all tensors."""
        return sum(entry.elements for entry in self.entries.values())


def _finite(name: str, tensor: Tensor) -> Tensor:
    if tensor.is_floating_point() and not is_finite(tensor):
        raise StageError(Failure(reason=FailureReason.MODEL_NOT_FINITE, subject=subject_of(name)))
    return tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether a floating-point tensor of any shape has neither NaN nor infinity."""
    if tensor.numel() == 0:
        return True
    # NaN wins over every number in both, so two scalars tell about all elements.
    low, high = torch.aminmax(tensor.float() if tensor.dtype.itemsize == 1 else tensor)
    return math.isfinite(low.item()) and math.isfinite(high.item())


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model folder's config.json.

    Raises:
        StageError: `MODEL_MISSING` or `MODEL_MALFORMED`.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StageError(Failure(reason=FailureReason.MODEL_MISSING, subject=subject_of(folder))) from error
    except ValueError as error:
        raise malformed("config.json") from error
    if not isinstance(config, dict):
        raise malformed("config.json")
    return config


def _entries(folder: Path) -> dict[str, TensorEntry]:
    index, single = folder / INDEX, folder / SINGLE
    if index.is_file():
        return _sharded(folder, index)
    if single.is_file():
        return read_header(single)
    for pattern in _PICKLES:
        for pickle in sorted(folder.glob(pattern)):
            raise StageError(Failure(reason=FailureReason.MODEL_UNSAFE, subject=subject_of(pickle.name)))
    raise incomplete(SINGLE)


def _sharded(folder: Path, index: Path) -> dict[str, TensorEntry]:
    """The tensors that an index names, each in the shard where the index says it is."""
    try:
        weight_map: dict[str, str] = json.loads(index.read_bytes())["weight_map"]
        # A name with a slash would lead out of the folder, and so does "..".
        plain = all(Path(shard).name == shard and shard not in {"", ".."} for shard in weight_map.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise malformed(index.name) from error
    if not plain:
        raise malformed(index.name)
    if (folder / SINGLE).is_file() and set(weight_map.values()) != {SINGLE}:
        raise StageError(Failure(reason=FailureReason.MODEL_AMBIGUOUS, subject=subject_of(index.name)))
    shards = {shard: read_header(folder / shard) for shard in sorted(set(weight_map.values()))}
    lacking = [name for name, shard in weight_map.items() if name not in shards[shard]]
    if lacking:
        raise incomplete(lacking[0])
    return {name: shards[shard][name] for name, shard in weight_map.items()}
