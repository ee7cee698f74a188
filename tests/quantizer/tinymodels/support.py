"""What is known of each architecture in each format on each engine: the table that tests go through and a page shows.

    PYTHONPATH=tests/quantizer .venv/bin/python -m tinymodels.support

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
    """compressed-tensors' own code unpacks the file to the weights that our reader computes with; that and no more."""
    REFUSED = "refused"


@dataclass(frozen=True)
class Claim:
    """One cell of the table.

    Attributes:
        model: the architecture, as transformers names its config.
        scheme: of the candidate.
        engine: that is to load it.
        proof: what is known.
        reason: why it is refused, or where it is not.
        told: what the engine says when it refuses.
        needs_amx: whether it is refused by processors without AMX.
    """

    model: str
    scheme: str
    engine: str
    proof: Proof
    reason: str = ""
    told: str = ""
    needs_amx: bool = False


SPECS = {
    "W4A16": CandidateSpec(method="RTN", scheme="W4A16", group_size=32),
    "W8A8": CandidateSpec(method="RTN", scheme="W8A8"),
}
"""A candidate of each format."""
TRANSFORMERS, VLLM = "transformers", "vLLM on a CPU"

_MIXTURES = ("Mixtral", "Qwen3Moe")
_REFUSED = {
    **{
        (model, "W8A8", TRANSFORMERS): (
            "transformers 5.19 joins a mixture's experts from packed weights only",
            "conversion of the weights",
        )
        for model in _MIXTURES
    },
    **{
        (model, "W4A16", VLLM): (
            "vLLM 0.32 has no kernel on a CPU for experts in int4",
            "No WNA16 MoE backend supports",
        )
        for model in _MIXTURES
    },
}
_NEEDS_AMX = {
    (model, "W8A8", VLLM): (
        "on a processor with AMX; elsewhere vLLM 0.32 has no kernel for experts in int8",
        "No Int8 MoE backend supports",
    )
    for model in _MIXTURES
}


def _claim(model: str, scheme: str, engine: str) -> Claim:
    refused = _REFUSED.get((model, scheme, engine))
    if refused is not None:
        return Claim(model, scheme, engine, Proof.REFUSED, *refused)
    with_amx = _NEEDS_AMX.get((model, scheme, engine))
    if with_amx is not None:
        return Claim(model, scheme, engine, Proof.LOADED, *with_amx, needs_amx=True)
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
