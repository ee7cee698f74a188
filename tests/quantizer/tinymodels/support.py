"""What is known of each architecture in each format on each engine: the table that tests go through and a page shows.

    python tests/quantizer/tinymodels/support.py

prints the page's part, docs/models.md below "What was tried".
"""

from dataclasses import dataclass
from enum import StrEnum

import transformers
from tinymodels.configs import SPECIAL

from saffron_api.candidate import CandidateSpec


class Proof(StrEnum):
    """How well a claim is founded."""

    LOADED = "loaded in a test"
    """The engine loads the checkpoint, and its logits are those of our reader."""
    ROUND_TRIP = "round trip checked"
    """compressed-tensors' own code unpacks the file to the weights that our reader computes with."""
    REFUSED = "refused"


@dataclass(frozen=True)
class Claim:
    """One cell of the table.

    Attributes:
        model: the architecture, as transformers names its config.
        scheme: of the candidate.
        engine: that is to load it.
        proof: what is known.
        reason: why it is refused.
    """

    model: str
    scheme: str
    engine: str
    proof: Proof
    reason: str = ""


SPECS = {
    "W4A16": CandidateSpec(method="RTN", scheme="W4A16", group_size=32),
    "W8A8": CandidateSpec(method="RTN", scheme="W8A8"),
}
"""A candidate of each format."""
TRANSFORMERS, VLLM = "transformers", "vLLM"

_JOINS_ONLY_PACKED = "transformers 5.19 joins a mixture's experts from packed weights only"
_MIXTURES = ("Mixtral", "Qwen3Moe")


def _claim(model: str, scheme: str, engine: str) -> Claim:
    if engine == VLLM:
        return Claim(model, scheme, engine, Proof.ROUND_TRIP)
    if model in _MIXTURES and scheme != "W4A16":
        return Claim(model, scheme, engine, Proof.REFUSED, _JOINS_ONLY_PACKED)
    return Claim(model, scheme, engine, Proof.LOADED)


COLUMNS = tuple((scheme, engine) for engine in (TRANSFORMERS, VLLM) for scheme in SPECS)
CLAIMS = tuple(_claim(model, *column) for model in SPECIAL for column in COLUMNS)


def class_name(model: str) -> str:
    """The class in config.json's `architectures`."""
    config = getattr(transformers, f"{model}Config")
    name: str = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]
    return name


def page() -> str:
    """The table as the page has it."""
    titles = ["`architectures`", *(f"{scheme}, {engine}" for scheme, engine in COLUMNS)]
    lines = [titles, ["---"] * len(titles)]
    cells = {(claim.model, claim.scheme, claim.engine): claim for claim in CLAIMS}
    for model in SPECIAL:
        row = [cells[model, *column] for column in COLUMNS]
        lines.append([f"`{class_name(model)}`", *(_cell(claim) for claim in row)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(claim: Claim) -> str:
    return f"{claim.proof.value}: {claim.reason}" if claim.reason else claim.proof.value


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - it is a program
