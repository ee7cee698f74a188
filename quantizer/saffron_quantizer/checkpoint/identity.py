"""What a model folder is: a digest of its files, and a guard that says when one of them changed while it was in use.

The digest is the SHA-256 over sorted (path, size, SHA-256 of content). A content's hash is remembered by path, size and
time of change, so that a large model is hashed once and not in every stage.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.atomic import PRIVATE_FILE, private_folder, write_file

_NOT_CONTENT = frozenset({"manifest.json", "report.json"})
"""Files about a folder; they are no part of what it is."""


@dataclass(frozen=True)
class _Stamp:
    size: int
    changed: int
    """Time of the last change in nanoseconds."""


def model_digest(folder: Path, *, hash_cache: Path | None) -> str:
    """The digest of a folder's content.

    Args:
        folder: the folder; files whose name begins with a dot are left out, and so are manifest.json and report.json.
        hash_cache: JSON file that remembers hashes; made when it is missing.

    Raises:
        StageError: `MODEL_MISSING` if there is no such folder, `MODEL_INCOMPLETE` if a link in it leads nowhere,
            `MODEL_CHANGED` if a file changes meanwhile.
    """
    remembered = _load(hash_cache)
    stamps = _stamps(folder)
    hashes = {}
    for name, stamp in stamps.items():
        key = str((folder / name).resolve())
        known = remembered.get(key)
        fresh = known is not None and known[:2] == [stamp.size, stamp.changed]
        hashes[name] = str(known[2]) if known is not None and fresh else file_hash(folder / name)
        remembered[key] = [stamp.size, stamp.changed, hashes[name]]
    _compare(stamps, _stamps(folder))
    if hash_cache is not None:
        private_folder(hash_cache.parent)
        write_file(hash_cache, json.dumps(remembered, indent=1, sort_keys=True).encode(), mode=PRIVATE_FILE)
    return digest_of({name: (stamps[name].size, hashes[name]) for name in hashes})


def digest_of(files: Mapping[str, tuple[int, str]]) -> str:
    """The digest of files given as path -> (size, SHA-256 in hex)."""
    lines = [f"{name}\0{size}\0{content}\n" for name, (size, content) in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_files(folder: Path) -> Iterator[str]:
    """The paths, relative to a folder and with slashes, of the files that are its content."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(root, name).relative_to(folder).as_posix()
            if not name.startswith(".") and path not in _NOT_CONTENT:
                yield path


class FolderGuard:
    """Notices when a file of a folder changes, comes or goes. As a context manager it checks at the end."""

    def __init__(self, folder: Path, *, hash_cache: Path | None = None) -> None:
        """Remember the files as they are.

        Args:
            folder: the folder.
            hash_cache: what `model_digest` wrote; a file that differs from it already has changed.

        Raises:
            StageError: `MODEL_MISSING`, `MODEL_INCOMPLETE` or `MODEL_CHANGED`.
        """
        self._folder = folder
        self._stamps = _stamps(folder)
        remembered = _load(hash_cache)
        for name, stamp in self._stamps.items():
            known = remembered.get(str((folder / name).resolve()))
            if known is not None and known[:2] != [stamp.size, stamp.changed]:
                raise _changed(name)

    def check(self) -> None:
        """Compare with the files as they were.

        Raises:
            StageError: `MODEL_CHANGED` with the first file that differs.
        """
        _compare(self._stamps, _stamps(self._folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.check()


def _stamps(folder: Path) -> dict[str, _Stamp]:
    if not folder.is_dir():
        raise StageError(Failure(reason=FailureReason.MODEL_MISSING, subject=subject_of(folder)))
    stamps = {}
    for name in content_files(folder):
        try:
            status = (folder / name).stat()
        except FileNotFoundError as error:
            # A link to what was not copied with it, as in a hub's cache.
            raise StageError(Failure(reason=FailureReason.MODEL_INCOMPLETE, subject=subject_of(name))) from error
        stamps[name] = _Stamp(status.st_size, status.st_mtime_ns)
    return stamps


def _compare(before: Mapping[str, _Stamp], after: Mapping[str, _Stamp]) -> None:
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            raise _changed(name)


def _changed(name: str) -> StageError:
    return StageError(Failure(reason=FailureReason.MODEL_CHANGED, subject=subject_of(name)))


def _load(hash_cache: Path | None) -> dict[str, list[int | str]]:
    """What is remembered; a file that can't be read is damaged, and the error says to delete it."""
    if hash_cache is None:
        return {}
    try:
        loaded: dict[str, list[int | str]] = json.loads(hash_cache.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StageError(Failure(reason=FailureReason.INPUT_CHANGED, subject=subject_of(hash_cache))) from error
    return loaded
