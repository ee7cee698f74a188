"""The work queue: one pass of a key at a time, errors ever more slowly."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from saffron_operator.errors import LeadershipLostError
from saffron_operator.queue import Key, WorkQueue, backoff

ONE, TWO = Key("ns", "one"), Key("ns", "two")


@asynccontextmanager
async def running(work: Callable[[Key], Awaitable[float | None]]) -> AsyncIterator[WorkQueue]:
    queue = WorkQueue(work)
    task = asyncio.create_task(queue.run())
    yield queue
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_key_added_while_its_pass_runs_gets_exactly_one_more_pass_and_never_two_at_once() -> None:
    passes: list[str] = []
    entered, leave = asyncio.Event(), asyncio.Event()

    async def work(_key: Key) -> None:
        passes.append("begin")
        entered.set()
        await leave.wait()
        passes.append("end")

    async with running(work) as queue:
        queue.add(ONE)
        await entered.wait()
        queue.add(ONE)
        queue.add(ONE)
        await asyncio.sleep(0.05)
        assert passes == ["begin"]
        leave.set()
        await asyncio.sleep(0.05)
    assert passes == ["begin", "end"] * 2


async def test_keys_do_not_wait_for_each_other() -> None:
    done: list[Key] = []

    async def work(key: Key) -> None:
        if key == ONE:
            await asyncio.Event().wait()
        done.append(key)

    async with running(work) as queue:
        queue.add(ONE)
        queue.add(TWO)
        await asyncio.sleep(0.05)
        assert done == [TWO]
        assert 0.04 < queue.oldest_pass_seconds() < 5


async def test_a_pass_says_when_the_next_one_is_due_and_an_event_comes_first() -> None:
    times: list[float] = []

    async def work(_key: Key) -> float:
        times.append(asyncio.get_running_loop().time())
        return 0.2

    async with running(work) as queue:
        queue.add(ONE)
        await asyncio.sleep(0.05)
        queue.add(ONE)
        await asyncio.sleep(0.3)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert gaps == [pytest.approx(0.05, abs=0.04), pytest.approx(0.2, abs=0.04)]


async def test_a_key_that_fails_waits_for_its_back_off_even_if_events_come() -> None:
    passes = 0

    async def work(_key: Key) -> None:
        nonlocal passes
        passes += 1
        raise ValueError

    async with running(work) as queue:
        for _ in range(10):
            queue.add(ONE)
            await asyncio.sleep(0.01)
        assert passes == 1
        await asyncio.sleep(0.6)
    assert passes == 2 + 1  # after 0.2 s and 0.4 s


async def test_one_success_ends_the_back_off() -> None:
    outcomes = [ValueError(), None, ValueError()]

    async def work(_key: Key) -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    async with running(work) as queue:
        queue.add(ONE)
        await asyncio.sleep(0.3)
        assert len(outcomes) == 1
        queue.add(ONE)
        await asyncio.sleep(0.05)
        assert outcomes == []


async def test_a_replica_that_may_not_write_any_more_ends_its_queue() -> None:
    async def work(_key: Key) -> None:
        raise LeadershipLostError

    queue = WorkQueue(work)
    queue.add(ONE)
    with pytest.raises(ExceptionGroup) as error:
        await asyncio.wait_for(queue.run(), 1)
    assert isinstance(error.value.exceptions[0], LeadershipLostError)


async def test_no_more_than_eight_passes_run_at_once() -> None:
    under_way = 0
    most = 0

    async def work(_key: Key) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1

    async with running(work) as queue:
        for number in range(50):
            queue.add(Key("ns", str(number)))
        await asyncio.sleep(0.3)
    assert (most, under_way) == (8, 0)


def test_back_off_doubles_to_a_minute() -> None:
    assert [backoff(n) for n in (1, 2, 3, 8, 9, 10, 1000)] == [0.2, 0.4, 0.8, 25.6, 51.2, 60.0, 60.0]
