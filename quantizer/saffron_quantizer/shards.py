"""The shards of a checkpoint, one a block, each with the notes of what making it took beside it until all is done."""

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from saffron_quantizer.atomic import write_file
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.checkpoint.tensor_file import read_entry, read_header
from saffron_quantizer.checkpoint.writer import shard_name, write_tensors
from saffron_quantizer.models.stream import ModelStream, Walk
from saffron_quantizer.plan import Plan
from saffron_quantizer.progress import Progress, ProgressSink
from saffron_quantizer.quantize_block import (
    BlockNotes,
    QuantizedBlock,
    calibrate_block,
    put_weights,
    restore,
    round_block,
)


def write_shards(
    folder: Path,
    reader: CheckpointReader,
    plan: Plan,
    stream: ModelStream,
    sequences: Sequence[Tensor],
    *,
    progress: ProgressSink,
) -> list[BlockNotes]:
    """Write every shard that is not there yet: first what lies outside the blocks, then block by block.

    Raises:
        StageError: the model can't be read, a block can't be quantized, the disk is full.
    """
    count = len(plan.blocks)
    outer = folder / shard_name(1, count + 1)
    if not outer.is_file():
        write_tensors(outer, {name: reader.read(name) for name in plan.outside})
    walk = stream.walk(sequences) if sequences else None
    notes = []
    for index in range(count):
        shard = folder / shard_name(index + 2, count + 1)
        notes.append(_block(shard, reader, plan, index, walk))
        progress(Progress("quantizing blocks", index + 1, count))
    return notes


def _block(shard: Path, reader: CheckpointReader, plan: Plan, index: int, walk: Walk | None) -> BlockNotes:
    """Write one block's shard unless it is there, and take the walk past it."""
    if walk is None:
        return _notes(shard) or _save(shard, round_block(reader, plan, index))
    with walk.stream.loaded(index) as block:
        notes = _notes(shard)
        if notes is None:
            return _save(shard, calibrate_block(reader, plan, index, walk))
        stored = {name: read_entry(entry) for name, entry in read_header(shard).items()}
        put_weights(block, plan, index, restore(plan, index, stored))
        walk.advance(index)
    return notes


def _save(shard: Path, block: QuantizedBlock) -> BlockNotes:
    """Write a block's notes and then its shard, whose presence says that both are there."""
    write_file(_notes_file(shard), json.dumps(block.notes.to_json()).encode())
    write_tensors(shard, block.stored)
    return block.notes


def _notes(shard: Path) -> BlockNotes | None:
    """The notes of a finished block, or None if it is not finished."""
    return BlockNotes.from_json(json.loads(_notes_file(shard).read_bytes())) if shard.is_file() else None


def _notes_file(shard: Path) -> Path:
    return shard.with_name(f".{shard.stem}.json")
