"""Where the tooling keeps what it builds and what a cluster remembers."""

import os
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent
"""The repository's `dev/` folder, which holds the Go modules."""

REPOSITORY = SOURCES.parent
"""The repository's root, which holds the Dockerfile."""


def cache_folder() -> Path:
    """Return the folder of everything that can be built again: `$XDG_CACHE_HOME/saffron`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "saffron"
