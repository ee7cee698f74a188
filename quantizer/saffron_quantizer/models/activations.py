"""Where activations are kept between blocks: in memory up to a budget, and what goes beyond it in a file.

The file is read and written by pread and pwrite, not mapped, so that resident memory stays ours. It has no name, so
nobody else can open what people wrote, and the system gives its room back however the process ends.
"""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from saffron_quantizer.atomic import is_full, storage_full
from saffron_quantizer.memory import Slabs
from saffron_quantizer.models.compute import CPU

_SMALL_BYTES = 1 << 16
_ALIGNMENT = 64
"""Bytes of a line of the cache."""
_PREFIX, _SUFFIX = ".activations-", ".partial"


class ActivationMemory:
    """What all shelves of one walk may hold in memory together. It changes the time, and no bit of a result.

    Attributes:
        slabs: where what is kept in memory lies.
        used: bytes of the budget that are taken.
    """

    def __init__(self, budget: int | None = None, folder: Path | None = None) -> None:
        """Begin with nothing kept.

        Args:
            budget: bytes; None for no bound.
            folder: where files are made; needed with a budget.

        Raises:
            ValueError: a budget without a folder.
        """
        if budget is not None and folder is None:
            raise ValueError("activations beyond a budget need a folder")
        self._budget = budget
        self._folder = folder
        self.slabs = Slabs()
        self.used = 0

    def shelf(self, slots: int, device: torch.device = CPU, kept: torch.dtype | None = None) -> "Shelf":
        """Room for some tensors, empty at first. They lie in the system's memory.

        Args:
            slots: how many.
            device: where they come out.
            kept: what floats are rounded to meanwhile; None for the type that they have.
        """
        return Shelf(self, slots, device, kept)

    def take(self, count: int) -> bool:
        """Take bytes of the budget, if it has so many left."""
        if self._budget is not None and self.used + count > self._budget:
            return False
        self.used += count
        return True

    def give_back(self, count: int) -> None:
        """Give back bytes that were taken."""
        self.used -= count

    def new_file(self) -> "_File":
        """A file for what the budget has no room for."""
        if self._folder is None:
            raise ValueError("without a folder nothing can be put into a file")
        return _File(self._folder)


class Shelf:
    """A fixed number of tensors, each in memory or in a file.

    What is put in a place comes out with the same bits, but for floats of a wider type than they are kept in.
    """

    def __init__(self, memory: ActivationMemory, slots: int, device: torch.device, kept: torch.dtype | None) -> None:
        self._memory = memory
        self._device = device
        self._kept = kept
        self._slots: list[Tensor | _Place | None] = [None] * slots
        self._dtypes: dict[int, torch.dtype] = {}  # of what was put in each
        self._file: _File | None = None
        self._slab = torch.empty(0, dtype=torch.uint8)  # what is left of the last one

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, number: int) -> bool:
        return self._slots[number] is not None

    def __iter__(self) -> Iterator[Tensor]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Tensor:
        kept = self._slots[number]
        if kept is None:
            raise LookupError(f"nothing was put in place {number}")
        tensor = kept if isinstance(kept, Tensor) else self._filed().read(kept)
        return tensor.to(self._device, self._dtypes[number])

    def __setitem__(self, number: int, tensor: Tensor) -> None:
        """Put a tensor in a place, instead of what is there.

        Raises:
            StageError: `STORAGE_FULL`.
        """
        before = self._slots[number]
        if isinstance(before, Tensor):
            self._memory.give_back(before.nbytes)
        # Until all is well the place is empty, so that an error gives nothing back twice.
        self._slots[number] = None
        dtype = self._kept if self._kept is not None and tensor.is_floating_point() else tensor.dtype
        if self._memory.take(tensor.numel() * dtype.itemsize):
            self._slots[number] = self._apart(tensor, dtype)
        else:
            place = before if isinstance(before, _Place) else None
            self._slots[number] = self._filed().write(tensor.to(CPU, dtype), place)
        self._dtypes[number] = tensor.dtype

    def clear(self, number: int) -> None:
        """Empty a place."""
        kept, self._slots[number] = self._slots[number], None
        if isinstance(kept, Tensor):
            self._memory.give_back(kept.nbytes)

    def __del__(self) -> None:
        self._memory.give_back(sum(kept.nbytes for kept in self._slots if isinstance(kept, Tensor)))

    def _apart(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """A copy outside the heap in a type, of all but a small tensor."""
        size = tensor.numel() * dtype.itemsize
        if size < _SMALL_BYTES:
            return tensor.to(CPU, dtype)
        if size > len(self._slab):
            self._slab = torch.frombuffer(self._memory.slabs.take(size), dtype=torch.uint8)
        kept = self._slab[:size].view(dtype).reshape(tensor.shape)
        self._slab = self._slab[-(-size // _ALIGNMENT) * _ALIGNMENT :]
        return kept.copy_(tensor)

    def _filed(self) -> "_File":
        if self._file is None:
            self._file = self._memory.new_file()
        return self._file


@dataclass(frozen=True)
class _Place:
    """A stretch of a file, and the tensor whose bytes it has."""

    begin: int
    bytes: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class _File:
    """A file without a name; it is gone with this object."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._end = 0
        # Where the file system can, it has no name from the start: a process may be killed between any two steps.
        self._file = tempfile.TemporaryFile(prefix=_PREFIX, suffix=_SUFFIX, dir=folder, buffering=0)  # noqa: SIM115 - open as long as this object
        self._descriptor = self._file.fileno()

    def write(self, tensor: Tensor, place: _Place | None) -> _Place:
        """Write a tensor over one that is needed no more, if it has as many bytes, or at the end."""
        data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
        fits = place is not None and place.bytes == len(data)
        begin = place.begin if place is not None and fits else self._end
        done = 0
        try:
            # One call moves at most 2 GiB.
            while done < len(data):
                done += os.pwrite(self._descriptor, data[done:], begin + done)
        except OSError as error:
            if is_full(error):
                raise storage_full(self._folder, need=begin + len(data)) from error
            raise
        self._end = max(self._end, begin + len(data))
        return _Place(begin, len(data), tuple(tensor.shape), tensor.dtype)

    def read(self, place: _Place) -> Tensor:
        """Read a tensor into memory of its own."""
        raw = torch.empty(place.bytes, dtype=torch.uint8)
        buffer, done = raw.numpy().data, 0
        while done < len(buffer):
            count = os.preadv(self._descriptor, [buffer[done:]], place.begin + done)
            if count == 0:
                raise OSError("a file of activations ends before its tensors do")
            done += count
        return raw.view(place.dtype).reshape(place.shape)
