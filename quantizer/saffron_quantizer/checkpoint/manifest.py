"""manifest.json: an artefact's last file, with the SHA-256 of each other; without it the artefact does not exist."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.atomic import PRIVATE_FILE, sync_folder, write_file
from saffron_quantizer.checkpoint.identity import file_hash

MANIFEST = "manifest.json"
_SCHEMA = "saffron.dev/manifest/v1"


def write_manifest(folder: Path, extra: Mapping[str, Any], *, mode: int = PRIVATE_FILE) -> None:
    """Write the manifest of a folder's files, whose names begin with no dot.

    Args:
        folder: the artefact.
        extra: what else to keep in it; its keys stand beside "schema" and "files".
        mode: of the file.

    Raises:
        StageError: `STORAGE_FULL`.
    """
    files = {
        name: {"size": (folder / name).stat().st_size, "sha256": file_hash(folder / name)} for name in _files(folder)
    }
    value = {"schema": _SCHEMA, "files": files, **extra}
    sync_folder(folder)
    write_file(folder / MANIFEST, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode(), mode=mode)


def read_manifest(folder: Path) -> Mapping[str, Any] | None:
    """Read an artefact's manifest and check that its files have the sizes it says.

    Returns:
        The manifest, or None if there is none: then the artefact does not exist.

    Raises:
        StageError: `INPUT_CHANGED` if the manifest is damaged, or a file is gone or has another size.
    """
    try:
        manifest: Mapping[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        sizes = {name: int(entry["size"]) for name, entry in manifest["files"].items()}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder / MANIFEST) from error
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise _damaged(path)
    return manifest


def _files(folder: Path) -> list[str]:
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(
        name.as_posix()
        for name in names
        if not any(part.startswith(".") for part in name.parts) and name.as_posix() != MANIFEST
    )


def _damaged(path: Path) -> StageError:
    return StageError(Failure(reason=FailureReason.INPUT_CHANGED, subject=subject_of(path)))
