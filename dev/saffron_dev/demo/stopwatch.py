"""Tell what happens with the time it happened at, and where the time went."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

_TOLD_FROM = 1.0


class Stopwatch:
    """Prints lines with the minutes since the start, and remembers how long each named step took."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._steps: list[tuple[str, float]] = []

    def say(self, text: str) -> None:
        """Print each line of a text with the elapsed time."""
        minutes, seconds = divmod(int(time.monotonic() - self._begun), 60)
        for line in text.splitlines() or [""]:
            print(f"{minutes:2d}:{seconds:02d}  {line}", flush=True)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Announce a step and time it, also when it fails."""
        self.say(f"== {name}")
        begun = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - begun)

    def add(self, name: str, seconds: float) -> None:
        """Note a duration that was measured elsewhere."""
        self._steps.append((name, seconds))

    def table(self) -> str:
        """Return where the time went: a line for each step that took at least a second, and the whole."""
        rows = [(name, seconds) for name, seconds in self._steps if seconds >= _TOLD_FROM]
        rows.append(("all", time.monotonic() - self._begun))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {seconds:6.0f} s" for name, seconds in rows)
