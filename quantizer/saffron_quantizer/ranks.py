"""Several processes that quantize one model together, each with its share of the sequences.

The sums that decide anything are added up over all of them, so each computes the same checkpoint; the first one writes
it. What they tell each other is numbers and JSON, never pickles.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from saffron_api.failures import OTHER_RANKS, Failure, FailureReason, StageError, subject_of
from saffron_quantizer.atomic import PRIVATE_FILE, write_file
from saffron_quantizer.models.compute import CPU

_log = logging.getLogger(__name__)

_TO_MEET = timedelta(minutes=15)
"""How long one waits for the others to start: a pod may have to pull its image, but one that failed never comes."""
_PATIENCE = timedelta(hours=1)
"""How long one waits for another that is still at work; one that has ended is noticed at once."""
_TO_CONNECT = timedelta(seconds=10)
"""How long the address that was found last is tried: it may be that of a pod that is no more."""
_DEFAULT_PORT = 29500
_MEETING = "first-rank.json"
"""In the folder that all share: where the first rank waits for the others."""


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
            # A sum that is not asynchronous is waited for by the card alone, and who lost the others is never told.
            with _told():
                dist.all_reduce(tensor, operation, async_op=True).wait()
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
        # It is about addresses and devices: tensors are added up, and no text is sent.
        _log.error("The other processes can't be reached: %s", error)
        raise _lost() from error


@contextmanager
def joined(
    environment: Mapping[str, str], meeting: Path | None = None, *, device: torch.device = CPU
) -> Iterator[Ranks]:
    """The processes that the environment tells of, for as long as the context lasts.

    It is that of torchrun (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT). In a Kubernetes Job with completionMode Indexed
    the rank may be JOB_COMPLETION_INDEX instead; without MASTER_ADDR the first process leaves its address, POD_IP, in a
    folder that all share.

    Args:
        environment: variables.
        meeting: that folder; it exists.
        device: what this process computes on.

    Raises:
        StageError: `SPEC_INVALID` if a variable is missing or wrong, `INPUT_OUTPUT` if the others don't come.
    """
    size = _number(environment, "WORLD_SIZE", default=1, most=65_536)
    if size == 1:
        yield ALONE
        return
    name = "RANK" if "RANK" in environment else "JOB_COMPLETION_INDEX"
    ranks = Ranks(_number(environment, name, default=None, most=size - 1), size)
    with _told():
        store = _meet(ranks, environment, meeting)
        dist.init_process_group(_backend(device), store=store, timeout=_PATIENCE, rank=ranks.rank, world_size=size)
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


def _backend(device: torch.device) -> str:
    """What adds up: NCCL what lies on a card, gloo what lies in memory."""
    if device.type != "cuda":
        return "gloo"
    # By default a thread of torch's ends the process, without a word of ours, once another is lost or late. So it is
    # the caller who waits for NCCL, and is told by an exception.
    os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
    return "cpu:gloo,cuda:nccl"


def _meet(ranks: Ranks, environment: Mapping[str, str], meeting: Path | None) -> Any:  # noqa: ANN401 torch's type is private
    """The store of the first rank, once all have come to it."""
    if environment.get("MASTER_ADDR"):
        port = _number(environment, "MASTER_PORT", default=_DEFAULT_PORT, most=65_535)
        store = _store(ranks, environment["MASTER_ADDR"], port, _TO_MEET)
    elif meeting is None:
        raise _invalid("MASTER_ADDR", "it is missing: the host of rank 0; or else name a folder that all share")
    elif ranks.is_first:
        if not environment.get("POD_IP"):
            raise _invalid("POD_IP", "it is missing: the address at which the others find this process")
        store = _store(ranks, environment["POD_IP"], 0, _TO_MEET)
        place = {"host": environment["POD_IP"], "port": store.port}
        write_file(meeting / _MEETING, json.dumps(place).encode(), mode=PRIVATE_FILE)
    else:
        store = _found_store(ranks, meeting / _MEETING)
    store.set(_came(ranks.rank), "")
    store.wait([_came(rank) for rank in range(ranks.size)], _TO_MEET)
    return store


def _came(rank: int) -> str:
    return f"came/{rank}"


def _found_store(ranks: Ranks, place: Path) -> Any:  # noqa: ANN401 as above
    """Look for the first rank until it is there: an address that was left before it started again leads nowhere."""
    until = time.monotonic() + _TO_MEET.total_seconds()
    while time.monotonic() < until:
        if place.is_file():
            told = json.loads(place.read_bytes())
            try:
                return _store(ranks, told["host"], told["port"], _TO_CONNECT)
            except RuntimeError:  # what torch raises where nobody listens
                continue
        time.sleep(0.2)
    raise _lost()


def _store(ranks: Ranks, host: str, port: int, patience: timedelta) -> Any:  # noqa: ANN401 as above
    return dist.TCPStore(  # type: ignore[attr-defined]  # torch exports it without saying so
        host, port, ranks.size, ranks.is_first, timeout=patience, wait_for_workers=False
    )


def _lost() -> StageError:
    return StageError(Failure(reason=FailureReason.INPUT_OUTPUT, subject=OTHER_RANKS))


def _number(environment: Mapping[str, str], name: str, *, default: int | None, most: int) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not text.isascii() or not text.isdigit() or int(text) > most:
        raise _invalid(name, f"it is no whole number up to {most}" if text else "it is missing")
    return int(text)


def _invalid(name: str, why: str) -> StageError:
    return StageError(Failure(reason=FailureReason.SPEC_INVALID, subject=name), detail=why)
