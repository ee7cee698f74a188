"""How far a stage is: what it tells while it works, and nothing about how that is shown."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One step of a stage's work was done.

    Attributes:
        activity: what is being done, in a few words, as "quantizing blocks".
        done: steps done.
        total: steps in all.
    """

    activity: str
    done: int
    total: int


ProgressSink = Callable[[Progress], None]
"""Takes each step as it happens."""


def ignore(_: Progress) -> None:
    """A sink for callers that show nothing."""
