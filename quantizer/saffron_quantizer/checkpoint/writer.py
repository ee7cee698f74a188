"""Writing a checkpoint's files: safetensors shards and what goes with them, each whole or absent."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saffron_quantizer.atomic import write_chunks, write_file
from saffron_quantizer.checkpoint.reader import INDEX
from saffron_quantizer.checkpoint.tensor_file import DTYPES, TensorEntry, pieces_of

_ALIGNMENT = 8
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

_COMPANIONS = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)
"""Files that go with the weights unchanged: what engines need, and the terms of use."""


def shard_name(number: int, count: int) -> str:
    """The name of shard `number` of `count`, from 1."""
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, mode: int = 0o644) -> None:
    """Write a safetensors file. The same tensors give the same bytes.

    Raises:
        StageError: `STORAGE_FULL`.
    """
    kinds = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_chunks(path, _chunks(kinds, lambda name: pieces_of(tensors[name])), mode=mode)


def copy_tensors(path: Path, entries: Mapping[str, TensorEntry], pieces: Callable[[str], Iterable[Tensor]]) -> None:
    """Write tensors of other files into one file, with no more than one piece in memory.

    Args:
        path: the file.
        entries: what is known of each tensor.
        pieces: reads one by its name, piece by piece.

    Raises:
        StageError: `STORAGE_FULL`, or what `pieces` raises.
    """
    kinds = {name: (entry.dtype, entry.shape) for name, entry in entries.items()}
    write_chunks(path, _chunks(kinds, pieces), mode=0o644)


def _chunks(
    kinds: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], pieces: Callable[[str], Iterable[Tensor]]
) -> Iterator[bytes | memoryview]:
    """The file piece by piece: the widest elements first, so that each tensor is aligned to its own."""
    names = sorted(kinds, key=lambda name: (-kinds[name][0].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        dtype, shape = kinds[name]
        end = offset + prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield len(text).to_bytes(_ALIGNMENT, "little") + text
    for name in names:
        for piece in pieces(name):
            yield piece.view(torch.uint8).numpy().data


def write_index(folder: Path, shards: Mapping[str, Mapping[str, int]]) -> None:
    """Write the index.

    Args:
        folder: where the shards are.
        shards: for each shard the bytes of each of its tensors.
    """
    weight_map = {name: shard for shard, sizes in shards.items() for name in sizes}
    total = sum(size for sizes in shards.values() for size in sizes.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON for people and engines."""
    write_file(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def companion_files(model: Path) -> list[Path]:
    """The files of a model folder that go with its weights unchanged."""
    return sorted({path for pattern in _COMPANIONS for path in model.glob(pattern) if path.is_file()})


def copy_companions(model: Path, folder: Path) -> None:
    """Copy the files that go with the weights.

    Raises:
        StageError: `STORAGE_FULL`.
    """
    for path in companion_files(model):
        write_file(folder / path.name, path.read_bytes())
