"""The shards of a checkpoint, one a block, each with the notes of what making it took beside it until all is done.

While a block is computed, one thread reads the next and another writes the one before.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from saffron_api.candidate import Target
from saffron_quantizer.alongside import ahead, behind
from saffron_quantizer.atomic import write_file
from saffron_quantizer.checkpoint.exactness import copy_exactly, write_exactly
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.checkpoint.tensor_file import read_entry, read_header
from saffron_quantizer.checkpoint.writer import shard_name
from saffron_quantizer.models.activations import ActivationMemory
from saffron_quantizer.models.compute import CPU
from saffron_quantizer.models.stream import ModelStream, Walk
from saffron_quantizer.plan import Plan
from saffron_quantizer.progress import Progress, ProgressSink
from saffron_quantizer.quantize_block import BlockNotes, QuantizedBlock, calibrate_block, restore, round_block
from saffron_quantizer.ranks import Ranks


def write_shards(
    folder: Path,
    reader: CheckpointReader,
    plan: Plan,
    stream: ModelStream,
    sequences: Sequence[Tensor],
    *,
    memory: ActivationMemory,
    ranks: Ranks,
    progress: ProgressSink,
) -> list[BlockNotes]:
    """Write every shard that is not there yet: first what lies outside the blocks, then block by block.

    Only the first rank writes. All are written when this returns.

    Raises:
        StageError: the model can't be read, a block can't be quantized, the disk is full, ranks differ.
    """
    outer, *shards = (folder / shard_name(number + 1, len(plan.blocks) + 1) for number in range(len(plan.blocks) + 1))
    finished: list[bool] = ranks.from_first(lambda: [shard.is_file() for shard in shards])
    if not sequences and not ranks.is_first:
        return []
    walk = stream.walk(sequences, memory=memory, ranks=ranks) if sequences else None
    original = walk.fork() if walk is not None and plan.spec.target is Target.ORIGINAL else None

    def tensors_of(index: int) -> dict[str, Tensor]:
        if finished[index]:
            return restore(plan, index, {name: read_entry(entry) for name, entry in read_header(shards[index]).items()})
        return {name: reader.read(name) for name in plan.blocks[index]}

    needed = [index for index in range(len(shards)) if walk is not None or not finished[index]]
    notes = []
    with behind() as put_away, ahead(tensors_of, needed) as blocks:
        if ranks.is_first and not outer.is_file():
            put_away(partial(copy_exactly, outer, {name: reader.entry(name) for name in plan.outside}, reader.pieces))
        for index, shard in enumerate(shards):
            if finished[index]:
                _replay(index, walk, blocks)
                if original is not None:
                    _replay(index, original, iter([{name: reader.read(name) for name in plan.blocks[index]}]))
                notes.append(_notes(shard))
            else:
                block = _block(plan, index, walk, original, _on(stream.device, next(blocks)))
                notes.append(block.notes)
                if ranks.is_first:
                    put_away(partial(_save, shard, block))
                del block
            put_away(partial(progress, Progress("quantizing blocks", index + 1, len(shards))))
    return notes


def read_notes(folder: Path, plan: Plan) -> list[BlockNotes]:
    """The notes of all blocks of a folder whose shards are finished."""
    count = len(plan.blocks)
    return [_notes(folder / shard_name(index + 2, count + 1)) for index in range(count)]


def _replay(index: int, walk: Walk | None, blocks: Iterator[dict[str, Tensor]]) -> None:
    """Take the walk past a finished block, by its weights as they were stored."""
    if walk is not None:
        with walk.stream.loaded(index, next(blocks)):
            walk.advance(index)


def _block(
    plan: Plan, index: int, walk: Walk | None, original: Walk | None, tensors: dict[str, Tensor]
) -> QuantizedBlock:
    """Quantize a block, and take the walks past it. What is stored is on the CPU."""
    if walk is None:
        return _on_cpu(round_block(plan, index, tensors))
    with walk.stream.loaded(index, tensors):
        block = _on_cpu(calibrate_block(plan, index, walk, tensors, original))
    walk.ranks.require_same(plan.architecture.block(index), partial(_digest, block))
    return block


def _on_cpu(block: QuantizedBlock) -> QuantizedBlock:
    return replace(block, stored=_on(CPU, block.stored))


def _on(device: torch.device, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _digest(block: QuantizedBlock) -> bytes:
    """The SHA-256 of a block's stored tensors."""
    digest = hashlib.sha256()
    for _, tensor in sorted(block.stored.items()):
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


def _save(shard: Path, block: QuantizedBlock) -> None:
    """Write a block's notes and then its shard, whose presence says that both are there."""
    write_file(_notes_file(shard), json.dumps(block.notes.to_json()).encode())
    write_exactly(shard, block.stored)


def _notes(shard: Path) -> BlockNotes:
    """The notes of a finished block."""
    return BlockNotes.from_json(json.loads(_notes_file(shard).read_bytes()))


def _notes_file(shard: Path) -> Path:
    return shard.with_name(f".{shard.stem}.json")
