"""How a subcommand ends: its result is told, or why there is none, and what to do about it."""

import argparse
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from saffron_api.failures import ExitCode, Failure, FailureReason, StageError, subject_of
from saffron_api.results import FailureResult, Stage, StageResult, encode
from saffron_quantizer.atomic import is_full, storage_full
from saffron_quantizer.cli.streams import mention, say

_TERMINATED = 128 + signal.SIGTERM
_ALLOCATION_FAILED = ("can't allocate memory", "not enough memory")
"""What torch says in a RuntimeError when the system gives it no memory."""
_CARD_IS_FULL = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What it says when a card gives it none."""


class Told(Protocol):
    """What a subcommand has to say when all went well."""

    @property
    def result(self) -> StageResult:
        """The result for the operator."""

    @property
    def text(self) -> str:
        """The result for people."""

    @property
    def exit_code(self) -> ExitCode:
        """What the process ends with."""


def run_stage(stage: Stage, arguments: argparse.Namespace, work: Callable[[argparse.Namespace], Told]) -> int:
    """Do a stage's work and tell how it ended.

    Returns:
        The exit code.
    """
    try:
        with ended_where_memory_is_lost(lambda error: _tell_failure(stage, arguments.result, error)):
            told = work(arguments)
        _write_result(arguments.result, told.result)
    except Exception as error:  # noqa: BLE001 whatever it is, it is told, and an unknown one with its traceback
        return _tell_failure(stage, arguments.result, error)
    try:
        say(encode(told.result) if arguments.json else told.text)
    except StageError as error:
        # The work is done, so that is what the result says.
        return tell(error).exit_code
    return told.exit_code


def told_failures(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Let a subcommand that is no stage of a Job tell why it could not do its work."""

    def checked(arguments: argparse.Namespace) -> int:
        try:
            with ended_where_memory_is_lost(lambda error: tell(error).exit_code):
                return run(arguments)
        except Exception as error:  # noqa: BLE001 as above
            return tell(error).exit_code

    return checked


def tell(error: Exception) -> Failure:
    """Say on stderr what an exception means; an unknown one is told with its traceback."""
    failure = failure_of(error)
    if failure.reason is FailureReason.INTERNAL:
        traceback.print_exception(error)
    mention(render(failure, detail_of(error)))
    return failure


def failure_of(error: Exception) -> Failure:
    """What an exception means."""
    if isinstance(error, StageError):
        return error.failure
    if isinstance(error, MemoryError) or any(words in str(error) for words in _ALLOCATION_FAILED):
        return Failure(reason=FailureReason.OUT_OF_MEMORY)
    if any(words in str(error) for words in _CARD_IS_FULL):
        return Failure(reason=FailureReason.GPU_OUT_OF_MEMORY)
    if isinstance(error, OSError) and is_full(error):
        return storage_full(Path(error.filename or "."), need=None).failure
    if isinstance(error, OSError):
        return Failure(reason=FailureReason.INPUT_OUTPUT, subject=subject_of(error.filename or "a file"))
    return Failure(reason=FailureReason.INTERNAL, subject=subject_of(type(error).__name__))


def render(failure: Failure, detail: str = "") -> str:
    """A failure for people: what was wrong, what precisely, and what to do."""
    wrong, _, remedy = failure.message.removesuffix(".").partition("; ")
    lines = [f"error: {wrong}.", detail and f"  why: {detail}.", remedy and f"  what to do: {remedy}."]
    return "\n".join(line for line in lines if line)


def _tell_failure(stage: Stage, result: Path | None, error: Exception) -> int:
    failure = tell(error)
    try:
        _write_result(result, FailureResult(failed_stage=stage, failure=failure))
    except OSError as second:
        mention(f"error: {result} can't be written ({second.strerror})")
    return failure.exit_code


def detail_of(error: Exception) -> str:
    """What is told besides of a known error; texts of libraries may hold anything and are not told."""
    if isinstance(error, StageError):
        return error.detail
    return error.strerror or "" if isinstance(error, OSError) else ""


def _write_result(path: Path | None, result: StageResult) -> None:
    """Write the termination message; the kubelet mounts it as a file, which can't be replaced by renaming."""
    if path is not None:
        path.write_text(encode(result))


@contextmanager
def ended_where_memory_is_lost(tell: Callable[[MemoryError], int]) -> Iterator[None]:
    """End the process where a compiled loop gets no memory.

    Such a loop can't hand an error to its caller, which would go on with numbers that were never computed. Python is
    told of the error as of one that nobody can handle.

    Args:
        tell: says why, and returns the exit code.
    """
    before = sys.unraisablehook

    def hook(lost: "sys.UnraisableHookArgs") -> None:
        if issubclass(lost.exc_type, MemoryError):
            os._exit(tell(MemoryError()))
        before(lost)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def end_at_sigterm() -> None:
    """End at once at SIGTERM, also in the middle of a long computation, where a signal handler would wait.

    Nothing is lost: every file is whole or absent, and the next run goes on with what is finished. As process 1 of a
    container the signal would otherwise be ignored. To be called before a library starts threads of its own, which
    would take the signal instead.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        signal.sigwait({signal.SIGTERM})
        os.write(2, b"ended by SIGTERM; the same command goes on with what is finished\n")
        os._exit(_TERMINATED)

    threading.Thread(target=wait, name="sigterm", daemon=True).start()
