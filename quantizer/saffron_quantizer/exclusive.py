"""One run at a time in a folder of unfinished work: an advisory lock that the kernel drops when its process ends.

Runs of the same work give their unfinished files the same names, so that one finds what another left; two at once would
rename each other's half-written files. So the second waits, and then finds what the first has made.
"""

import errno
import fcntl
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LOCK = ".lock"
"""The file in the folder that is locked; it is there for as long as a run lasts, or until the next where one was
killed."""

_HELD = (errno.EACCES, errno.EAGAIN)
_LOOK_AGAIN_SECONDS = 1
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

_log = logging.getLogger(__name__)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes' runs out of a folder, which is made if need be, for as long as the context lasts.

    If another process is at work in it, that is told and its end waited for. The folder may be renamed or removed
    meanwhile. If nothing was put into a folder that was made, it is removed again.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    with _locked(folder) as lock:
        try:
            yield
        finally:
            # Removed before it is given up: who opened it meanwhile sees that it is no longer the folder's.
            if _is_of(lock, folder):
                (folder / LOCK).unlink()
            _remove_empty(missing)


def _locked(folder: Path) -> IO[bytes]:
    """The folder's lock file, locked.

    The lock is one of the process (POSIX), not of the open file (flock): it holds between the clients of a network
    volume, and no forked child keeps it past the end of its parent. It is lost once this process closes the file by any
    descriptor, so nothing else opens it.
    """
    told = False
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # A run that ended has just renamed or removed the folder.
        lock = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            holder = _holder_unless_locked(lock, folder)
            if holder is not None:
                if not told:
                    _log.warning("%s is at work in %s: waiting for its end.", holder, folder)
                told = True
                time.sleep(_LOOK_AGAIN_SECONDS)
            elif _is_of(lock, folder):
                lock.truncate()
                lock.write(f"Process {os.getpid()} on {platform.node()}".encode())
                return lock
        except BaseException:
            lock.close()
            raise
        lock.close()


def _holder_unless_locked(lock: IO[bytes], folder: Path) -> str | None:
    """Lock a file, or tell who has."""
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _WITHOUT_LOCKS:
            _log.warning("The volume of %s has no file locks; see that no other run is at work in it.", folder)
        elif error.errno in _HELD:
            return lock.read().decode() or "Another run"
        else:
            raise
    return None


def _is_of(lock: IO[bytes], folder: Path) -> bool:
    """Whether an open lock file is still the one in the folder."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), (folder / LOCK).stat())
    except FileNotFoundError:
        return False


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, up to one that holds something or is gone."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
