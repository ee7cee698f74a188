"""Files that are whole or absent: written under a temporary name, synced, then renamed."""

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from saffron_api.failures import Failure, FailureReason, StageError, subject_of

PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
"""Modes of the workspace, which holds what people wrote."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        StageError: `STORAGE_FULL` with the bytes that are needed and free; the temporary file is removed.
        OSError: any other trouble of the file system.
    """
    write_chunks(path, [data], mode=mode)


def write_chunks(path: Path, chunks: Iterable[bytes | memoryview], *, mode: int = 0o644) -> None:
    """Write a file's pieces one after the other, so that it is there whole or not at all.

    Raises:
        StageError: `STORAGE_FULL` with the bytes that are needed so far and free; the temporary file is removed.
        OSError: any other trouble of the file system.
    """
    temporary = path.with_name(temporary_name(path.name))
    written = 0
    try:
        # Made anew, since the mode of a left-over file would stay what it was.
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            for chunk in chunks:
                written += len(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(descriptor)
        temporary.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if is_full(error):
            raise storage_full(path.parent, need=written) from error
        raise


def require_writable(path: Path) -> None:
    """Make sure that `write_file` could write a file, before the work whose result is to be in it.

    Raises:
        OSError: what keeps it from being written.
    """
    temporary = path.with_name(temporary_name(path.name))
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT, PRIVATE_FILE))
    temporary.unlink()


def temporary_name(name: str) -> str:
    """What a file is called until it is whole; a process that is killed leaves it so."""
    return f".{name}.partial"


def private_folder(path: Path) -> None:
    """Make a folder, and its missing parents, that only its owner can enter; another process may make it as well."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    path.chmod(PRIVATE_FOLDER)


def sync_folder(path: Path) -> None:
    """Make renames inside a folder last through a crash."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_full(error: OSError) -> bool:
    """Whether a write failed for lack of room, a quota and a limit on a file's size included."""
    return error.errno in _FULL


def storage_full(folder: Path, *, need: int | None) -> StageError:
    """The error for a volume without room.

    Args:
        folder: a folder on the volume.
        need: bytes that did not fit, if they are known.
    """
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    have = shutil.disk_usage(existing).free
    return StageError(Failure(reason=FailureReason.STORAGE_FULL, subject=subject_of(folder), have=have, need=need))
