"""Which QuantizedModels are to be looked at, and when: one key at most once at a time, errors ever more slowly."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from saffron_operator.errors import ConflictError, LeadershipLostError, OperatorError

log = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 60.0
WORKERS = 8


class Key(NamedTuple):
    """One QuantizedModel."""

    namespace: str
    name: str


Work = Callable[[Key], Awaitable[float | None]]
"""Does one pass; returns the seconds until the next one is due, or None where only an event calls for it."""


def backoff(failures: int) -> float:
    """Return the seconds to wait after so many failures in a row: 0.2, 0.4, 0.8 ... 60."""
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 16), LONGEST_BACKOFF_SECONDS)


class WorkQueue:
    """Keys with the time at which each is due. All methods belong to one event loop."""

    def __init__(self, work: Work, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._work = work
        self._clock = clock
        self._due: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._running: dict[Key, float] = {}
        self._changed = asyncio.Event()

    def add(self, key: Key) -> None:
        """Ask for a pass now, or right after the one that runs.

        A key that failed keeps its back-off: else a pass that fails after a write would call for itself at once,
        by the event of that write.
        """
        if key not in self._failures:
            self._due[key] = self._clock()
            self._changed.set()

    def oldest_pass_seconds(self) -> float:
        """Return for how long the oldest of the passes under way has run."""
        return max((self._clock() - started for started in self._running.values()), default=0.0)

    async def run(self) -> None:
        """Do passes until cancelled. Passes of different keys run side by side, those of one key in turn.

        Raises:
            LeadershipLostError: A pass found that it may not write any more.
        """
        async with asyncio.TaskGroup() as passes:
            while True:
                wait = self._start_due(passes)
                self._changed.clear()
                try:
                    async with asyncio.timeout(wait):
                        await self._changed.wait()
                except TimeoutError:
                    pass  # the next key is due

    def _start_due(self, passes: asyncio.TaskGroup) -> float | None:
        """Start what is due and return the seconds until the next key is, or None where no time is set."""
        now = self._clock()
        waiting = sorted((due, key) for key, due in self._due.items() if key not in self._running)
        for due, key in waiting:
            if len(self._running) >= WORKERS:
                return None  # a pass that ends wakes us
            if due > now:
                return due - now
            del self._due[key]
            self._running[key] = now
            passes.create_task(self._pass(key))
        return None

    async def _pass(self, key: Key) -> None:
        try:
            again = await self._work(key)
        except LeadershipLostError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, other keys go on
            self._failed(key, error)
        else:
            self._failures.pop(key, None)
            if again is not None:
                due = self._clock() + again
                self._due[key] = min(self._due.get(key, due), due)
        finally:
            del self._running[key]
            self._changed.set()

    def _failed(self, key: Key, error: Exception) -> None:
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        seconds = backoff(failures)
        self._due[key] = self._clock() + seconds
        overtaken = isinstance(error, ConflictError)
        log.log(
            logging.INFO if overtaken else logging.WARNING,
            "pass overtaken" if overtaken else "pass failed",
            # What the API server refuses needs no trace; anything else is a bug of ours.
            exc_info=None if isinstance(error, OperatorError) else error,
            extra={"fields": {"key": "/".join(key), "failures": failures, "again_in_s": seconds, "error": error}},
        )
