"""Kopf in its thread: when it ends, whatever ended it, the operator hears of it."""

import asyncio
import threading

import kopf
import pytest
from kubernetes.aio.client import Configuration

from saffron_operator import triggers
from saffron_operator.watches import WatchAges


async def test_watches_that_end_by_themselves_are_no_silent_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a namespace's RoleBinding is taken away: Kopf gives up, and nothing is watched in any namespace."""

    async def ends(*, stop_flag: threading.Event, **_: object) -> None:
        # What waits in a thread is not cancelled with the rest, and a loop does not close before its threads end.
        asyncio.get_running_loop().run_in_executor(None, stop_flag.wait)
        raise RuntimeError("a watch is forbidden")

    monkeypatch.setattr(kopf, "operator", ends)
    running = asyncio.create_task(
        triggers.run(Configuration(), ("serving",), WatchAges(frozenset()), lambda _key: None)
    )
    ended, _ = await asyncio.wait({running}, timeout=5)
    running.cancel()
    assert ended == {running}, "it waits for a word to stop, which comes from nobody"
    with pytest.raises(RuntimeError, match="a watch is forbidden"):
        await running
