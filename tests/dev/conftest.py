"""What the tests of clusters look at on the machine."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def processes_of() -> Callable[[Path | str], list[str]]:
    """Tells the command lines of all processes that name a folder: those that were started for what lies in it."""

    def find(folder: Path | str) -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
                continue
            if str(folder) in command:
                found.append(command)
        return found

    return find
