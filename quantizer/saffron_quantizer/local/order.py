"""One piece of work of a request: a stage, and for the later ones the candidate that it is about."""

from dataclasses import dataclass

from saffron_api import keys
from saffron_api.quantized_model import Candidate, QuantizedModelSpec
from saffron_api.results import Stage
from saffron_quantizer.local.places import Places


@dataclass(frozen=True)
class Order:
    """What a process is started with.

    Attributes:
        stage: what to do.
        spec: what is asked for as a whole.
        places: where its parts lie.
        model_digest: of the original; empty until Inspect has told it.
        candidate: which one; None for stages that all share.
        checkpoint_digest: of the candidate's checkpoint; empty until it is made.
        device: what computes, by its name on the command line.
    """

    stage: Stage
    spec: QuantizedModelSpec
    places: Places
    model_digest: str = ""
    candidate: Candidate | None = None
    checkpoint_digest: str = ""
    device: str = "cpu"

    @property
    def about(self) -> str:
        """What it does, in a few words."""
        return self.stage.value if self.candidate is None else f"{self.stage} {self.candidate.name}"

    @property
    def level(self) -> float:
        """Of each one-sided bound, so that those of all candidates hold together."""
        return keys.bound_confidence(self.spec.gates.confidence, len(self.spec.candidates))

    @property
    def sample_key(self) -> str:
        """The key of the sets, and of the original's states on them."""
        spec = self.spec
        return keys.sample_key(
            model_digest=self.model_digest,
            data=spec.data,
            calibration=spec.calibration,
            evaluation=spec.evaluation,
            run_id=spec.run_id,
        )

    @property
    def quantize_key(self) -> str:
        """The key of the candidate's checkpoint."""
        if self.candidate is None:
            raise ValueError(f"{self.stage} is about no candidate")
        return keys.quantize_key(sample_key=self.sample_key, candidate=self.candidate, gates=self.spec.gates)

    @property
    def evaluate_key(self) -> str:
        """The key of the candidate's figures."""
        return keys.evaluate_key(quantize_key=self.quantize_key, confidence=self.level)
