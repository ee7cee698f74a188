"""Unfinished work: a folder that a killed run leaves and the next one goes on with, and how it becomes an artefact.

A fingerprint of all that fixes the bytes is written into it before the first block. A run with the same fingerprint
takes over every finished shard; a run with another one discards the folder and says so.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_api.keys import digest
from saffron_quantizer.atomic import sync_folder, temporary_name, write_file
from saffron_quantizer.checkpoint.manifest import read_manifest
from saffron_quantizer.exclusive import LOCK, exclusive

_FINGERPRINT = ".fingerprint.json"
_POINTER = "partial.json"
_PUBLIC = 0o755

_log = logging.getLogger(__name__)


def open_partial(folder: Path, fingerprint: Mapping[str, Any], *, work: Path | None) -> None:
    """Make a folder for unfinished work, or go on with the one that is there. The caller has it for itself.

    Args:
        folder: the folder.
        fingerprint: all that fixes the bytes.
        work: folder that remembers where the unfinished work of this stage is, so that work with another fingerprint
            is found and discarded.

    Raises:
        StageError: `SPEC_INVALID` if the folder holds something else.
    """
    _discard_other(folder, fingerprint, work)
    if folder.is_dir() and _has_content(folder) and _is_other(folder, fingerprint):
        _discard(folder, fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(_PUBLIC)
    if work is not None:
        write_file(work / _POINTER, json.dumps({"folder": str(folder)}).encode(), mode=0o600)
    if not (folder / _FINGERPRINT).is_file():
        write_file(folder / _FINGERPRINT, json.dumps(dict(fingerprint), indent=1, sort_keys=True).encode())


def _discard_other(folder: Path, fingerprint: Mapping[str, Any], work: Path | None) -> None:
    """Remove the unfinished work that this stage left elsewhere."""
    if work is None or not (work / _POINTER).is_file():
        return
    other = Path(json.loads((work / _POINTER).read_bytes())["folder"])
    if other != folder and (other / _FINGERPRINT).is_file():
        with exclusive(other):
            # Whoever had it may have finished and renamed it.
            if (other / _FINGERPRINT).is_file():
                _discard(other, fingerprint)
                shutil.rmtree(other)


def _discard(folder: Path, fingerprint: Mapping[str, Any]) -> None:
    """Remove unfinished work, and say what it was begun with. The folder is still ours, and so is its lock."""
    told = "Discarding the unfinished work in %s: it was begun with %s."
    _log.warning(told, folder, _begun_with(_fingerprint(folder), fingerprint))
    # The fingerprint is the last, for without it a run that is killed here would leave a folder of somebody else's.
    for path in sorted(folder.iterdir(), key=lambda path: path.name == _FINGERPRINT):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _begun_with(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs, in words: of a machine each thing, as the device."""
    if before.get("request") != now.get("request"):
        return "other settings or inputs"
    old, new = before.get("machine", {}), now.get("machine", {})
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name)}, which is {new.get(name)} here" for name in names)


def _fingerprint(folder: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((folder / _FINGERPRINT).read_bytes())
    return found


def _has_content(folder: Path) -> bool:
    """Whether there is more than what a run leaves that was killed before its fingerprint was whole."""
    return any(path.name not in {LOCK, temporary_name(_FINGERPRINT)} for path in folder.iterdir())


def _is_other(folder: Path, fingerprint: Mapping[str, Any]) -> bool:
    """Whether unfinished work was begun with another fingerprint."""
    if not (folder / _FINGERPRINT).is_file():
        failure = Failure(reason=FailureReason.SPEC_INVALID, subject=subject_of(f"--out={folder}"))
        raise StageError(failure, detail="it holds files that are not ours; choose a folder that does not exist yet")
    return digest(_fingerprint(folder)) != digest(fingerprint)


def is_published(folder: Path) -> bool:
    """Whether a folder holds an artefact that nothing is left to be done for."""
    return read_manifest(folder) is not None and not any(_left_over(folder))


def _left_over(folder: Path) -> Iterator[Path]:
    """What a run has in its folder besides the artefact."""
    for pattern in (".*.json", ".*.partial", LOCK):
        yield from folder.glob(pattern)


def publish(partial: Path, target: Path) -> None:
    """Give a finished folder its name. If an artefact of that name stands already, the folder is dropped.

    The caller has the folder for itself. What else is left in an artefact that has its name already is removed.

    Raises:
        StageError: `INPUT_CHANGED` if what stands there is damaged.
    """
    if partial != target and read_manifest(target) is not None:
        shutil.rmtree(partial)
    else:
        for note in _left_over(partial):
            if note.name != LOCK:
                note.unlink()
        if partial != target:
            partial.rename(target)
            sync_folder(target.parent)
    # The last, since a run that finds no lock where the folder was begins anew.
    for lock in target.glob(LOCK):
        lock.unlink(missing_ok=True)
