"""Several processes that quantize one model together, each with its share of the sequences.

The sums that decide anything are added up over all of them, so each computes the same checkpoint; the first one writes
it. What they tell each other is numbers and JSON, never pickles.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from saffron_api.failures import Failure, FailureReason, StageError, subject_of

_TO_MEET = timedelta(minutes=15)
"""How long one waits for the others to start: a pod may have to pull its image, but one that failed never comes."""
_PATIENCE = timedelta(hours=1)
"""How long one waits for another that is still at work; one that has ended is noticed at once."""
_DEFAULT_PORT = 29500


@dataclass(frozen=True)
class Ranks:
    """This process among those that work together.

    Attributes:
        rank: its number, from 0; the first one writes.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, sequences: Sequence[Tensor]) -> list[Tensor]:
        """This process's share of 1-D sequences: of like lengths, each process gets as many."""
        if self.size == 1:
            return list(sequences)
        order = sorted(range(len(sequences)), key=lambda number: (-len(sequences[number]), number))
        return [sequences[number] for number in sorted(order[self.rank :: self.size])]

    def sum(self, tensor: Tensor) -> Tensor:
        """Add a contiguous tensor of any shape up over all ranks, in place, and return it: the same bits on each."""
        return self._reduce(tensor, dist.ReduceOp.SUM)

    def max(self, tensor: Tensor) -> Tensor:
        """The largest of all ranks, element by element, in place."""
        return self._reduce(tensor, dist.ReduceOp.MAX)

    def from_first(self, make: Callable[[], Any]) -> Any:  # noqa: ANN401 a JSON value
        """What the first rank makes, on every rank: a JSON value."""
        if self.size == 1:
            return make()
        text = json.dumps(make()).encode() if self.is_first else b""
        length = self._broadcast(torch.tensor([len(text)]))
        data = (
            torch.tensor(list(text), dtype=torch.uint8)
            if self.is_first
            else torch.zeros(int(length), dtype=torch.uint8)
        )
        return json.loads(bytes(self._broadcast(data).tolist()))

    def require_same(self, what: str, digest: Callable[[], bytes]) -> None:
        """Refuse to go on where ranks differ in something.

        Args:
            what: its name in the error.
            digest: gives that of this rank's, of equal length on all; asked only where there are others.

        Raises:
            StageError: `RANKS_DIFFER`.
        """
        if self.size == 1:
            return
        own = torch.tensor(list(digest()), dtype=torch.int32)
        low, high = self._reduce(own.clone(), dist.ReduceOp.MIN), self._reduce(own.clone(), dist.ReduceOp.MAX)
        if not torch.equal(low, high):
            raise StageError(Failure(reason=FailureReason.RANKS_DIFFER, subject=subject_of(what)))

    def _reduce(self, tensor: Tensor, operation: Any) -> Tensor:  # noqa: ANN401 torch's type is private
        if self.size > 1:
            with _told():
                dist.all_reduce(tensor, operation)
        return tensor

    def _broadcast(self, tensor: Tensor) -> Tensor:
        with _told():
            dist.broadcast(tensor, src=0)
        return tensor


ALONE = Ranks()
"""One process that does all by itself."""


@contextmanager
def _told() -> Iterator[None]:
    """Tell the loss of another process as what it is."""
    try:
        yield
    except RuntimeError as error:
        raise StageError(Failure(reason=FailureReason.INPUT_OUTPUT, subject="the-other-ranks")) from error


@contextmanager
def joined(environment: Mapping[str, str]) -> Iterator[Ranks]:
    """The processes that the environment tells of, for as long as the context lasts.

    It is that of torchrun (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT). In a Kubernetes Job with completionMode Indexed
    the rank may be JOB_COMPLETION_INDEX instead.

    Raises:
        StageError: `SPEC_INVALID` if a variable is missing or wrong, `INPUT_OUTPUT` if the others don't come.
    """
    size = _number(environment, "WORLD_SIZE", default=1, most=65_536)
    if size == 1:
        yield ALONE
        return
    name = "RANK" if "RANK" in environment else "JOB_COMPLETION_INDEX"
    ranks = Ranks(_number(environment, name, default=None, most=size - 1), size)
    port = _number(environment, "MASTER_PORT", default=_DEFAULT_PORT, most=65_535)
    if not environment.get("MASTER_ADDR"):
        raise _invalid("MASTER_ADDR", "it is missing: the host of rank 0")
    # NCCL where there are GPUs, for what lies on them; gloo for what lies in memory.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _told():
        store = dist.TCPStore(  # type: ignore[attr-defined]  # torch exports it without saying so
            environment["MASTER_ADDR"], port, size, ranks.is_first, timeout=_TO_MEET
        )
        dist.init_process_group(backend, store=store, timeout=_PATIENCE, rank=ranks.rank, world_size=size)
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


def _number(environment: Mapping[str, str], name: str, *, default: int | None, most: int) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not text.isascii() or not text.isdigit() or int(text) > most:
        raise _invalid(name, f"it is no whole number up to {most}" if text else "it is missing")
    return int(text)


def _invalid(name: str, why: str) -> StageError:
    return StageError(Failure(reason=FailureReason.SPEC_INVALID, subject=name), detail=why)
