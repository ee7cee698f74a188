"""How much room there must be before something large is begun."""

import shutil
from pathlib import Path

from saffron_dev.errors import DevError

_GIGABYTE = 10**9


def require_free_space(folder: Path, gigabytes: float, purpose: str) -> None:
    """Check that the disk under a folder, which need not exist yet, has enough room.

    Raises:
        DevError: There is less; the message names the disk, both figures and the purpose.
    """
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < gigabytes * _GIGABYTE:
        raise DevError(
            f"The disk of {folder} has {free / _GIGABYTE:.1f} GB free, and {gigabytes:g} GB are needed {purpose}. "
            "Make room, or let XDG_CACHE_HOME name a folder on a larger disk."
        )
