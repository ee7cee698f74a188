"""A piece of work in a process of its own: what it uses up, or dies of, ends with it.

So one candidate that needs too much memory stops no other, and the peak memory that a stage reports is its own.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait

from saffron_api.failures import Failure, FailureReason, StageError
from saffron_api.results import StageResult
from saffron_quantizer.cli.outcome import detail_of, ended_where_memory_is_lost, failure_of
from saffron_quantizer.local.order import Order
from saffron_quantizer.progress import ProgressSink

Show = Callable[[], AbstractContextManager[ProgressSink]]
"""Makes a sink that shows progress; it is called in the process that does the work, so it is a module's function."""

_ORPHANED = 1


def do_in_process(order: Order, show: Show) -> StageResult:
    """Do a piece of work in a new process, and wait for it.

    Raises:
        StageError: as told by the work; `OUT_OF_MEMORY` where the process was killed, `INTERNAL` where it ended in
            any other way without a word.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(order, show, theirs), name=order.about)
    with _interrupts_held_back():
        process.start()
    theirs.close()
    try:
        told = ours.recv()
    except EOFError:
        told = None
    except BaseException:
        # Every file is whole or absent, so nothing is lost with it.
        process.kill()
        raise
    finally:
        ours.close()
        process.join()
    if told is None:
        killed = process.exitcode == -signal.SIGKILL
        reason = FailureReason.OUT_OF_MEMORY if killed else FailureReason.INTERNAL
        raise StageError(Failure(reason=reason, subject=f"exit-code={process.exitcode}"))
    result, failure, detail = told
    if failure is not None:
        raise StageError(failure, detail=detail)
    done: StageResult = result
    return done


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Hold Ctrl-C back for a moment, and for good from a process that is started in it, which has the signal blocked.

    Ctrl-C reaches all processes of a terminal. The one that waits ends the other, which would only add a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    # Where this is not running the start of a process starts it, and lets all signals through afterwards.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_SETMASK, before | {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(order: Order, show: Show, answer: Connection) -> None:
    """What the process does; it ends when whoever started it does, however that comes about."""
    threading.Thread(target=_end_with_parent, name="orphaned", daemon=True).start()
    try:
        with show() as progress, ended_where_memory_is_lost(lambda error: _tell(error, answer)):
            from saffron_quantizer.local.stages import do  # noqa: PLC0415 only the process that works needs torch

            result = do(order, progress)
    except Exception as error:  # noqa: BLE001 it is told, and the other candidates go on
        _tell(error, answer)
        return
    answer.send((result, None, ""))


def _tell(error: Exception, answer: Connection) -> int:
    """Tell whoever waits why there is no result, and return the exit code."""
    failure = failure_of(error)
    if failure.reason is FailureReason.INTERNAL:
        traceback.print_exception(error)
    answer.send((None, failure, detail_of(error)))
    return failure.exit_code


def _end_with_parent() -> None:
    """Wait for the end of the process that started this one. Two that wrote one checkpoint would spoil it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(_ORPHANED)
