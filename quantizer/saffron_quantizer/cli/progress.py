"""Progress on stderr: bars with the time left on a terminal, a line every few seconds elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from saffron_quantizer.cli.streams import mention
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
        self._first = Progress("", 0, 0)
        self._begun = self._written = clock()

    def __call__(self, step: Progress) -> None:
        """Take one step."""
        now = self._clock()
        if step.activity != self._first.activity:
            # Before an activity's first step lie imports and the reading of files, which no later step does again.
            self._first, self._begun = step, now
        if step.done < step.total and now - self._written < _SECONDS_BETWEEN_LINES:
            return
        self._written = now
        mention(f"{step.activity}: {step.done} of {step.total}{self._left(step, now)}", self._stream)

    def _left(self, step: Progress, now: float) -> str:
        """The time left at the pace since the first step; nothing before there is a pace."""
        done = step.done - self._first.done
        left = (now - self._begun) * (step.total - step.done) / done if done else 0
        return f", about {duration(left)} left" if left else ""


def duration(seconds: float) -> str:
    """Seconds for people, as "1m20s"."""
    minutes, rest = divmod(round(seconds), _MINUTE)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
