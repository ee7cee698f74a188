"""kubectl, as the demo uses it: what a person could type, with the answer as data."""

import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saffron_dev.errors import DevError

_SECONDS = 120

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Kubectl:
    """A kubectl program, bound to a cluster and a namespace."""

    program: Path
    kubeconfig: Path
    namespace: str

    def command(self, *words: str) -> list[str]:
        """Return the whole command line."""
        return [str(self.program), f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}", *words]

    def run(self, *words: str, stdin: str | None = None, seconds: float = _SECONDS) -> str:
        """Run kubectl and return what it prints.

        Raises:
            DevError: It failed; the message holds what it said.
        """
        done = subprocess.run(
            self.command(*words), input=stdin, capture_output=True, text=True, timeout=seconds, check=False
        )
        if done.returncode != 0:
            raise DevError(f"kubectl {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def apply(self, manifests: Iterable[Manifest]) -> None:
        """Create or change objects."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.run("apply", "--filename=-", stdin=json.dumps(items))

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return one object, or None where there is none of that name."""
        text = self.run("get", kind, name, "--output=json", "--ignore-not-found")
        answer: dict[str, Any] | None = json.loads(text) if text.strip() else None
        return answer

    def items(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        """Return all objects of a kind that carry the labels."""
        answer: list[dict[str, Any]] = json.loads(self.run("get", kind, f"--selector={selector}", "--output=json"))[
            "items"
        ]
        return answer
