"""Which tasks of lm-evaluation-harness are taken: those that are files and nothing else."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import yaml

from saffron_api.failures import Failure, FailureReason, StageError, subject_of

_FILES = frozenset({"json", "csv", "parquet", "text", "arrow"})
"""The readers of data sets that need nothing but files."""
_SCORED = frozenset({"loglikelihood", "multiple_choice"})
"""The outputs that log-probabilities are enough for."""


def tasks_digest(folder: Path) -> str:
    """The SHA-256 of all files of a folder of tasks, in hex."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def check_tasks(folder: Path) -> None:
    """Refuse tasks that would run code, read anything but files or generate text.

    Raises:
        StageError: `SPEC_INVALID` with the file, or with the folder if there is no task in it.
    """
    paths = sorted(folder.rglob("*.yaml"))
    if not paths:
        raise invalid_task(folder, "there is no task in it, a file NAME.yaml of lm-evaluation-harness")
    for path in paths:
        try:
            task = yaml.safe_load(path.read_bytes())
        except yaml.YAMLError as error:
            raise invalid_task(path, "it is not YAML without tags; a task that names functions runs code") from error
        if not isinstance(task, Mapping) or "include" in task or "class" in task:
            raise invalid_task(path, "it is not a task that stands for itself")
        kind, files = task.get("dataset_path"), str(task.get("dataset_kwargs", ""))
        if kind not in _FILES or "://" in files:
            raise invalid_task(
                path, f"its dataset_path must be one of {', '.join(sorted(_FILES))}, with files beside it"
            )
        if task.get("output_type") not in _SCORED:
            raise invalid_task(path, f"its output_type must be {' or '.join(sorted(_SCORED))}: no text is generated")


def invalid_task(path: Path, why: str) -> StageError:
    """The error for a task that is not taken."""
    return StageError(Failure(reason=FailureReason.SPEC_INVALID, subject=subject_of(f"--tasks={path}")), detail=why)
