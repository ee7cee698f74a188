"""A stage's folder in the workspace: finished once its manifest stands, and then only reported, never made again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_api.model import ApiModel
from saffron_quantizer.atomic import temporary_name
from saffron_quantizer.checkpoint.manifest import MANIFEST, read_manifest, write_manifest
from saffron_quantizer.exclusive import LOCK


def open_artefact(folder: Path, *, settings: Mapping[str, Any], files: Sequence[str]) -> Mapping[str, Any] | None:
    """The result of a finished artefact, or None if it is still to be made.

    Args:
        folder: the artefact's folder, which exists.
        settings: what the artefact is made with, as JSON values.
        files: names of the files that the stage writes; a stage that was killed may have left some.

    Raises:
        StageError: `SPEC_INVALID` if the folder was made with other settings or holds files that are not ours.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        ours = {LOCK, *files, *(temporary_name(name) for name in (*files, MANIFEST))}
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in ours)
        if foreign:
            raise _invalid(folder, f"it holds {foreign[0]}, which is not ours; choose a new folder")
        return None
    made_with: Mapping[str, Any] = manifest.get("settings", {})
    changed = sorted(key for key in {*settings, *made_with} if settings.get(key) != made_with.get(key))
    if changed:
        raise _invalid(folder, f"it was made with another {changed[0]}; delete it or choose a new folder")
    result: Mapping[str, Any] = manifest["result"]
    return result


def finish(folder: Path, *, settings: Mapping[str, Any], result: ApiModel, notes: Mapping[str, Any]) -> None:
    """Write the manifest, which makes the artefact exist. `notes` are recorded and compared with nothing."""
    body = {"settings": dict(settings), "result": result.model_dump(mode="json", by_alias=True), **notes}
    write_manifest(folder, body)


def _invalid(folder: Path, why: str) -> StageError:
    subject = subject_of(f"--out={folder}")
    return StageError(Failure(reason=FailureReason.SPEC_INVALID, subject=subject), detail=why)
