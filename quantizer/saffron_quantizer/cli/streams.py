"""What a command says on its standard streams, which may be closed, without a reader, or without room."""

import os
import signal
import sys
from io import TextIOWrapper
from typing import TextIO

from saffron_api.failures import Failure, FailureReason, StageError

_READER_GONE = 128 + signal.SIGPIPE
_DESCRIPTORS = (0, 1, 2)


def open_standard_streams() -> None:
    """Open /dev/null in the place of each standard stream that is closed.

    Else the next file that is opened, say one of a checkpoint, would have the stream's number, and what a library
    writes for people would go there. Characters that the encoding has not are written by their numbers.
    """
    for descriptor in _DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is taken, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout, sys.stderr = (_opened(stream) for stream in (sys.stdout, sys.stderr))


def _opened(stream: TextIO | None) -> TextIO:
    """The stream, or one to nowhere where Python found it closed."""
    if stream is None:
        return open(os.devnull, "w")  # noqa: PTH123 it stays open as long as the process
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


def say(text: str, *, end: str = "\n") -> None:
    """Print a part of the result on stdout, at once.

    Raises:
        SystemExit: with 141, as SIGPIPE ends other commands, if nobody reads it any more.
        StageError: `INPUT_OUTPUT` if it can't be written.
    """
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        _give_up(sys.stdout)
        sys.exit(_READER_GONE)
    except OSError as error:
        _give_up(sys.stdout)
        failure = Failure(reason=FailureReason.INPUT_OUTPUT, subject="standard-output")
        raise StageError(failure, detail=error.strerror or "") from error


def mention(text: str, stream: TextIO | None = None) -> None:
    """Print a line for whoever watches, on stderr or another stream; that nobody does is no reason to lose the work."""
    watched = sys.stderr if stream is None else stream
    try:
        print(text, file=watched, flush=True)
    except OSError:
        _give_up(watched)


def _give_up(stream: TextIO) -> None:
    """Send what a stream still holds, and all that comes, nowhere: at the end Python would fail to write it again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
