"""The report of an evaluation: what was measured of which files on which data, and what the gates say of it."""

from typing import Literal

from pydantic import Field

from saffron_api.candidate import CandidateSpec
from saffron_api.gates import judge
from saffron_api.model import ApiModel
from saffron_api.quantized_model import Gates, Verdict
from saffron_api.results import EvaluateResult, Figure, FigureName
from saffron_api.scalars import Digest


class Settings(ApiModel):
    """What the figures depend on: with the same settings they are not measured again."""

    model_digest: Digest
    checkpoint_digest: Digest
    data_digest: Digest
    confidence: float = Field(description="The level of each one-sided bound.")
    seed: int = Field(description="Of the resampling.")
    resamples: int


class Machine(ApiModel):
    """Where it was measured."""

    isa: str
    threads: int
    dtype: str = Field(description="What the candidate was computed in.")
    torch: str
    transformers: str


class Fingerprint(ApiModel):
    """What fixes the figures to the last bit."""

    settings: Settings
    machine: Machine


class GateRow(ApiModel):
    """A figure and what its gate says of it."""

    name: FigureName
    value: float
    lower: float
    upper: float
    limit: float | None = None
    verdict: Verdict | None = None
    n_units: int


class LinearRow(ApiModel):
    """What quantizing one linear took, as far as its method looks at it."""

    name: str = Field(description="Its path in the block, as self_attn.q_proj.")
    relative_error: float | None = Field(
        default=None, description="Of its output on the calibration tokens: |(W - Q) X|^2 / |W X|^2."
    )
    damping: float | None = Field(default=None, description="A share of the mean diagonal of its Hessian.")
    dead_columns: int | None = Field(default=None, description="Inputs that were 0 in every calibration token.")
    act_order: str | None = Field(default=None, description="The order in which its columns were rounded.")
    scale_search: str | None = Field(default=None, description="How its scales were found.")
    all_tokens: bool = Field(
        default=False,
        description="Whether its expert was sent so few tokens that it was calibrated on all of its mixture's.",
    )


class EdgeRow(ApiModel):
    """How the channels between a producer and its consumers were smoothed."""

    producer: str = Field(description="Its path in the block, as input_layernorm.")
    exponent: float | None = Field(description="AWQ's or SmoothQuant's alpha; None where no scales were best.")
    largest_scale: float
    error: float = Field(description="What is left of the error that rounding causes without scales.")


class LayerRow(ApiModel):
    """What quantizing one block took."""

    block: int
    modules: int
    max_damping: float
    dead_columns: int
    all_token_experts: int = Field(default=0, description="Experts that were sent too few tokens for themselves.")
    linears: list[LinearRow] = Field(default_factory=list)
    edges: list[EdgeRow] = Field(default_factory=list)


class Timings(ApiModel):
    """Wall time in seconds of the parts of an evaluation."""

    original: float
    candidate: float
    compare: float


class Report(ApiModel):
    """An evaluation, whole; a Job's termination message is a part of it."""

    schema_name: Literal["saffron.dev/report/v1"] = Field(default="saffron.dev/report/v1", alias="schema")
    candidate: CandidateSpec
    digest: Digest
    bytes: int
    original_bytes: int
    verdict: Verdict | None = Field(default=None, description="None without gates.")
    units_needed: int | None = Field(default=None, description="Conversations that would settle an Inconclusive.")
    gates: list[GateRow]
    perplexity_original: float
    perplexity_candidate: float
    scored_tokens: int
    layers: list[LayerRow]
    fingerprint: Fingerprint
    timings: Timings
    peak_bytes: int

    @property
    def units(self) -> int:
        """Conversations that the figures rest on."""
        return self.gates[0].n_units

    @property
    def result(self) -> EvaluateResult:
        """The part of it that a Job tells."""
        return EvaluateResult(
            checkpoint_digest=self.digest,
            figures=figures_of(self),
            units=self.units,
            scored_tokens=self.scored_tokens,
            confidence=self.fingerprint.settings.confidence,
        )


def figures_of(report: Report) -> list[Figure]:
    """The figures without what gates say of them."""
    return [Figure(name=row.name, value=row.value, lower=row.lower, upper=row.upper) for row in report.gates]


def unjudged(figures: list[Figure], units: int) -> list[GateRow]:
    """The rows of figures that no gate looked at."""
    return [GateRow(**figure.model_dump(), n_units=units) for figure in figures]


def judged(report: Report, gates: Gates) -> Report:
    """The same report under other gates: verdicts are decided again, nothing is measured."""
    judgement = judge(figures_of(report), gates, report.units)
    rows = [GateRow(**figure.model_dump(), n_units=report.units) for figure in judgement.figures]
    return report.model_copy(
        update={"gates": rows, "verdict": judgement.verdict, "units_needed": judgement.units_needed}
    )


def to_json(report: Report) -> str:
    """The report as it is written."""
    return report.model_dump_json(by_alias=True, indent=2) + "\n"
