"""Where a request's inputs and outputs lie on this machine. Below the claims it is laid out as Jobs lay it out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from saffron_api.quantized_model import QuantizedModelSpec

_SCHEME = "pvc://"


@dataclass(frozen=True)
class Places:
    """Folders and files of one request.

    Attributes:
        model: folder of the original.
        dataset: JSONL with conversations.
        workspace: folder that only its owner may read, for samples, hidden states and reports.
        checkpoints: folder of all checkpoints.
    """

    model: Path
    dataset: Path
    workspace: Path
    checkpoints: Path

    @property
    def hash_cache(self) -> Path:
        """Where hashes of the model's files are remembered."""
        return self.workspace / "hashes.json"

    def samples(self, key: str) -> Path:
        """The folder of the sets."""
        return self._folder("samples", key)

    def baseline(self, key: str) -> Path:
        """The folder of the original's hidden states."""
        return self._folder("baseline", key)

    def quantize(self, key: str) -> Path:
        """The folder that remembers what became of a checkpoint."""
        return self._folder("quantize", key)

    def report(self, key: str) -> Path:
        """The report of an evaluation."""
        return self._folder("evaluate", key) / "report.json"

    def _folder(self, stage: str, key: str) -> Path:
        return self.workspace / stage / key[:16]


def claims_of(spec: QuantizedModelSpec) -> list[str]:
    """The names of the claims that a request reads and writes, each once, in the order of the spec."""
    uris = (spec.model.uri, spec.data.source.dataset.uri)
    storage = (spec.storage.checkpoints.claim_name, spec.storage.workspace.claim_name)
    return list(dict.fromkeys([*(_split(uri)[0] for uri in uris), *storage]))


def places_of(spec: QuantizedModelSpec, name: str, claims: Mapping[str, Path]) -> Places:
    """Where a request's parts lie.

    Args:
        spec: what is asked for.
        name: of the request; its folder in the workspace.
        claims: for each name of `claims_of` the folder that stands for it.
    """

    def find(uri: str) -> Path:
        claim, path = _split(uri)
        return claims[claim] / path

    store = spec.storage.checkpoints
    return Places(
        model=find(spec.model.uri),
        dataset=find(spec.data.source.dataset.uri),
        workspace=claims[spec.storage.workspace.claim_name] / name,
        checkpoints=claims[store.claim_name] / store.path,
    )


def _split(uri: str) -> tuple[str, str]:
    """Claim and path of `pvc://CLAIM/PATH`."""
    claim, _, path = uri.removeprefix(_SCHEME).partition("/")
    return claim, path
