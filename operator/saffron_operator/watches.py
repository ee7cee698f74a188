"""When each watch was last known to be alive.

Kopf restarts a watch that breaks, but a watch can also end for ever without a word, and the operator would then
look healthy and see nothing. So the server ends each watch after a minute, and every answer to a new request for the
same one is a sign of life.
"""

import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace

import aiohttp

SERVER_TIMEOUT_SECONDS = 60
"""The API server ends each watch after this, and Kopf asks again at once."""

MOST_REFUSALS = 3
"""In a row, of one watch. An API server that has just started may refuse what it allows a moment later."""

_FORBIDDEN = 403


class WatchAges:
    """The time of the last answer to a watch request, by path. Written by Kopf's thread, read by ours."""

    def __init__(self, expected: frozenset[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        """Remember when it began.

        Args:
            expected: The path of each collection that must be watched.
            clock: Seconds.
        """
        self._clock = clock
        self._seen = dict.fromkeys(expected, clock())
        self._waiting = set(expected)
        self._refusals: dict[str, int] = {}

    def expect(self, paths: Iterable[str]) -> None:
        """Count these paths, and no others, from now."""
        self._seen = dict.fromkeys(paths, self._clock())
        self._waiting = set(self._seen)

    def seen(self, path: str) -> None:
        """Take note that the API server answered a request to watch this path."""
        if path in self._seen:
            self._seen[path] = self._clock()
            self._waiting.discard(path)
            self._refusals.pop(path, None)

    def refused(self, path: str) -> None:
        """Take note that the API server refused a request to watch this path."""
        if path in self._seen:
            self._refusals[path] = self._refusals.get(path, 0) + 1

    @property
    def lost(self) -> tuple[str, ...]:
        """The paths whose watches were refused so often in a row that they will not be taken again."""
        return tuple(path for path, times in dict(self._refusals).items() if times >= MOST_REFUSALS)

    def restart(self) -> None:
        """Count from now: the watches are about to begin."""
        self._seen = dict.fromkeys(self._seen, self._clock())

    def ages(self) -> dict[str, float]:
        """Return the seconds since each watch was last known to be alive, or since the start."""
        now = self._clock()
        return {path: now - seen for path, seen in self._seen.items()}

    @property
    def oldest(self) -> float:
        """The greatest of the ages; 0 where nothing is watched."""
        return max(self.ages().values(), default=0.0)

    @property
    def complete(self) -> bool:
        """Whether each watch was answered once."""
        return not self._waiting

    def trace(self) -> aiohttp.TraceConfig:
        """Return what an HTTP session needs to report here."""
        config = aiohttp.TraceConfig()
        config.on_request_end.append(self._on_request_end)
        return config

    async def _on_request_end(
        self, _session: aiohttp.ClientSession, _context: SimpleNamespace, end: aiohttp.TraceRequestEndParams
    ) -> None:
        if end.url.query.get("watch") != "true":
            return
        if end.response.ok:
            self.seen(end.url.path)
        elif end.response.status == _FORBIDDEN:
            self.refused(end.url.path)
