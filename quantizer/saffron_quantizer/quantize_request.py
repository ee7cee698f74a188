"""What the Quantize stage is asked for."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from saffron_api.candidate import CandidateSpec
from saffron_quantizer.checkpoint.identity import model_digest
from saffron_quantizer.data.sequences import sequences_digest
from saffron_quantizer.escalate import Selection


@dataclass(frozen=True)
class QuantizeRequest:
    """What to make, of what.

    Attributes:
        model: folder of the original.
        spec: what to make.
        sequences: 1-D int64 token ids to calibrate on; None for a candidate that reads no data.
        selection: what an escalated candidate is to keep, and on what; looked at by no other.
        model_digest: of the model; computed when it is None.

    Raises:
        ValueError: no sequences for a candidate that needs them, or a selection for one that is not escalated, or none
            for one that is.
    """

    model: Path
    spec: CandidateSpec
    sequences: Sequence[Tensor] | None
    selection: Selection | None = None
    model_digest: str | None = None

    def __post_init__(self) -> None:
        if self.spec.needs_calibration and not self.sequences:
            raise ValueError("this candidate needs sequences to calibrate on")
        if (self.spec.escalate is None) != (self.selection is None):
            raise ValueError("a selection belongs to a candidate that is escalated, and to no other")

    @property
    def calibration(self) -> Sequence[Tensor]:
        """The sequences; none for a candidate that reads no data."""
        return self.sequences if self.sequences and self.spec.needs_calibration else ()

    def told(self) -> dict[str, Any]:
        """It as JSON, all inputs by their digests: with the same request, a finished checkpoint is only reported."""
        request = {
            "candidate": self.spec.told,
            "modelDigest": self.model_digest or model_digest(self.model, hash_cache=None),
            "dataDigest": _digest_of(self.calibration) if self.calibration else None,
        }
        if self.selection is None:
            return request
        gates = self.selection.gates.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {**request, "selectionDigest": sequences_digest(self.selection.sequences), "gates": gates}


def _digest_of(sequences: Sequence[Tensor]) -> str:
    lines = [json.dumps(sequence.tolist()) for sequence in sequences]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
