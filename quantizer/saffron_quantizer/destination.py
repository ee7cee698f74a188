"""Where a checkpoint goes: a folder of its own, or one among all checkpoints."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class OwnFolder:
    """A folder that is new, or that holds our own unfinished checkpoint.

    Attributes:
        path: it.
    """

    path: Path

    def unfinished(self, fingerprint: Mapping[str, Any]) -> Path:  # noqa: ARG002 - a store asks for it
        """The folder that a checkpoint is made in."""
        return self.path

    def finished(self, checkpoint_digest: str) -> Path:  # noqa: ARG002
        """The folder that it has in the end."""
        return self.path


@dataclass(frozen=True)
class Store:
    """The folder of all checkpoints, each in one that its digest names.

    Attributes:
        path: it.
    """

    path: Path

    def unfinished(self, fingerprint: Mapping[str, Any]) -> Path:
        """The folder that a checkpoint is made in, which no other fingerprint has."""
        text = json.dumps(fingerprint, sort_keys=True)
        return self.path / f".partial-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def finished(self, checkpoint_digest: str) -> Path:
        """The folder that it has in the end."""
        return self.path / checkpoint_digest


Destination = OwnFolder | Store
