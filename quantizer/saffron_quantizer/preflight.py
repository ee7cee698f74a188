"""What quantizing a model will need of memory and of the disk, from shapes alone, and whether it is there."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.checkpoint.writer import companion_files
from saffron_quantizer.memory import free_bytes
from saffron_quantizer.models.batches import batch_tokens
from saffron_quantizer.plan import Plan, folder_bytes

_FLOAT = 4
_HESSIANS = 2
"""Matrices as large as a Hessian at once while it is factorized."""
_COPIES = 4
"""Float copies of a weight matrix at once while it is rounded: itself, reordered, and two to search its scales."""
_SPARE_BYTES = 1 << 20
"""Room for headers, config, index and manifest."""


@dataclass(frozen=True)
class Needs:
    """What a run needs besides the program itself, in bytes: of the disk nearly exact, of memory nearly.

    Attributes:
        outside: memory for the largest tensor outside the blocks, while no block is there.
        blocks: for the weights of the block at work, of the next one and of the one that is written.
        forward: for one batch on its way through a block.
        rounding: for the largest group of linears: its Hessian and copies of its weights.
        activations: for all activations that are kept between passes, in memory or on the disk.
        checkpoint: what is written.
    """

    outside: int
    blocks: int
    forward: int
    rounding: int
    activations: int
    checkpoint: int

    @property
    def memory(self) -> int:
        """Memory without the activations, for which a file does, too."""
        return max(self.outside, self.blocks + max(self.forward, self.rounding))


def needs(
    reader: CheckpointReader, plan: Plan, sequences: Sequence[Tensor], dtype: torch.dtype, kept: torch.dtype
) -> Needs:
    """What a run needs.

    Args:
        reader: of the model.
        plan: what becomes of its tensors.
        sequences: this process's share of what it is calibrated on; none for a method that reads no data.
        dtype: what is computed in.
        kept: what activations are kept in.
    """
    return needs_of_lengths(reader, plan, [len(sequence) for sequence in sequences], dtype, kept)


def needs_of_lengths(
    reader: CheckpointReader, plan: Plan, lengths: Sequence[int], dtype: torch.dtype, kept: torch.dtype
) -> Needs:
    """What a run needs whose sequences have so many tokens; else as `needs`."""
    stored = max(sum(reader.entry(name).bytes for name in names) for names in plan.blocks)
    elements = max(sum(reader.entry(name).elements for name in names) for names in plan.blocks)
    written = plan.bytes // len(plan.blocks)
    outside = max((reader.entry(name).bytes for name in plan.outside), default=0)
    companions = sum(path.stat().st_size for path in companion_files(reader.folder))
    groups = {_shape(reader, plan, index, group) for index, groups in enumerate(plan.groups) for group in groups}
    if not lengths:
        largest = max(reader.entry(name).elements for name in plan.precisions)
        return Needs(outside, 2 * stored + 2 * written, 0, _COPIES * _FLOAT * largest, 0, plan.bytes + companions)
    copies = {entry.dtype for entry in reader.entries.values()} != {dtype}
    batches = batch_tokens(lengths)
    width = max(columns for _, columns in groups)
    hidden = int(reader.config["hidden_size"])
    # What a mixture reads, too, and a few numbers of experts.
    mixture = hidden if plan.architecture.mixture else 0
    lasts = [reader.entry(plan.weight(0, sublayer.last)).shape[1] for sublayer in plan.architecture.sublayers]
    # What is walked through the original, and what the linears of a block read there.
    compared = [reader.entry(plan.weight(0, linear)).shape[1] for linear in plan.compared(0)]
    beside = hidden + sum(compared) if compared else 0
    hessians, weights = (_HESSIANS + 1, _COPIES + 2) if compared else (_HESSIANS, _COPIES)
    return Needs(
        outside=outside + copies * outside,
        blocks=2 * stored + copies * elements * dtype.itemsize + 2 * written,
        # The widest linear's input, the two that it is made of, and a float copy of it for its Hessian.
        forward=max(batches) * (3 * width * dtype.itemsize + width * _FLOAT) + width * width * _FLOAT,
        rounding=max(_FLOAT * (hessians * columns**2 + weights * rows * columns) for rows, columns in groups),
        activations=sum(batches) * (hidden + mixture + sum(lasts) + beside) * kept.itemsize,
        checkpoint=plan.bytes + companions,
    )


def _shape(reader: CheckpointReader, plan: Plan, index: int, group: Sequence[str]) -> tuple[int, int]:
    """Rows and columns of linears of a block that read one input, stacked."""
    shapes = [reader.entry(plan.weight(index, linear)).shape for linear in group]
    return sum(shape[0] for shape in shapes), shapes[0][1]


def activation_budget(need: Needs, asked: int | None) -> int:
    """Bytes of activations that are kept in memory: those asked for, else half of what the rest leaves free.

    Raises:
        StageError: `MEMORY_TOO_SMALL` if not even the rest has room.
    """
    free = free_bytes()
    if free is None:
        return need.activations if asked is None else asked
    kept = min(need.activations, asked or 0)
    if need.memory + kept > free:
        reason = FailureReason.MEMORY_TOO_SMALL
        raise StageError(Failure(reason=reason, subject="quantize", have=free, need=need.memory + kept))
    return (free - need.memory) // 2 if asked is None else asked


def require_room(target: Path, spill: Path, need: Needs, budget: int) -> None:
    """Refuse what a volume can't hold: the checkpoint, or activations beyond the budget.

    Args:
        target: folder of the checkpoint.
        spill: folder of the activations, on the same volume or another.
        need: what the run needs.
        budget: bytes of activations that are kept in memory.

    Raises:
        StageError: `STORAGE_FULL` with the bytes that are free and needed.
    """
    checkpoint = need.checkpoint + _SPARE_BYTES - folder_bytes(target)
    spilled = max(need.activations - budget, 0)
    if _volume(target).stat().st_dev == _volume(spill).stat().st_dev:
        _require(target, checkpoint + spilled)
    else:
        _require(target, checkpoint)
        _require(spill, spilled)


def _require(folder: Path, need: int) -> None:
    have = shutil.disk_usage(_volume(folder)).free
    if have < need:
        subject = subject_of(folder.parent)
        raise StageError(Failure(reason=FailureReason.STORAGE_FULL, subject=subject, have=have, need=need))


def _volume(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
