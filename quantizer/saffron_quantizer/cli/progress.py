"""Progress on stderr: bars with the time left on a terminal, a line every few seconds elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from saffron_quantizer.progress import Progress, ProgressSink

_SECONDS_BETWEEN_LINES = 5.0
_MINUTE = 60


@contextmanager
def shown_progress(stream: TextIO) -> Iterator[ProgressSink]:
    """A sink that shows steps on a stream, in the way that suits it."""
    if not stream.isatty():
        yield PlainLines(stream, clock=time.monotonic)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(file=stream)) as bars:
        tasks: dict[str, TaskID] = {}

        def show(step: Progress) -> None:
            if step.activity not in tasks:
                tasks[step.activity] = bars.add_task(step.activity, total=step.total)
            bars.update(tasks[step.activity], completed=step.done)

        yield show


class PlainLines:
    """A sink that writes a line at an activity's end, and every few seconds until then."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._activity: str | None = None
        self._begun = self._written = clock()

    def __call__(self, step: Progress) -> None:
        """Take one step."""
        now = self._clock()
        if step.activity != self._activity:
            self._activity, self._begun = step.activity, self._written
        if step.done < step.total and now - self._written < _SECONDS_BETWEEN_LINES:
            return
        self._written = now
        left = (now - self._begun) * (step.total - step.done) / step.done if step.done else None
        told = f", about {duration(left)} left" if left else ""
        print(f"{step.activity}: {step.done} of {step.total}{told}", file=self._stream, flush=True)


def duration(seconds: float) -> str:
    """Seconds for people, as "1m20s"."""
    minutes, rest = divmod(round(seconds), _MINUTE)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
