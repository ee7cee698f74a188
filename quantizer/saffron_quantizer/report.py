"""The report of an evaluation: what was measured of which files on which data, and what the gates say of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from saffron_api.candidate import CandidateSpec
from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_api.gates import judge
from saffron_api.model import ApiModel
from saffron_api.quantized_model import Gates, Verdict
from saffron_api.results import EvaluateResult, Figure, FigureName
from saffron_api.scalars import CandidateName, Digest
from saffron_quantizer.engine_address import Engine
from saffron_quantizer.evaluation.power import smallest_margin

FIGURE_TITLES: Mapping[FigureName, str] = {
    FigureName.PERPLEXITY_RATIO: "perplexity ratio",
    FigureName.KL_DIVERGENCE: "KL, nats a token",
    FigureName.TOP_TOKEN_AGREEMENT: "same top token",
    FigureName.CHECKPOINT_BYTES_RATIO: "size ratio",
}
"""What people call each figure."""

LIMITS: Sequence[str] = """\
They compare distributions of the next token on given text: they run no benchmark, generate no answers, judge no style.
They speak of data like those that were measured: a language or a task that is missing from them may be damaged unseen.
The bounds take conversations to be independent, and are approximate, the more so with few and very unequal ones.
Engines round a little differently from what was measured, and from each other.
""".splitlines()
"""What figures of this kind do not tell."""


class Settings(ApiModel):
    """What the figures depend on: with the same settings they are not measured again."""

    model_digest: Digest
    checkpoint_digest: Digest
    data_digest: Digest
    confidence: float = Field(description="The level of each one-sided bound.")
    seed: int = Field(description="Of the resampling.")
    resamples: int
    engine: Engine | None = Field(
        default=None, description="None where the candidate was computed by Saffron's own forward pass."
    )
    tasks_digest: Digest | None = Field(default=None, description="Of the folder of tasks, where there is one.")


class Machine(ApiModel):
    """Where it was measured."""

    isa: str
    device: str = Field(default="cpu", description="What computed: cpu, or the model of a GPU.")
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
    margin: float | None = Field(
        default=None,
        description="The smallest distance between the true figure and a limit that so many conversations can show to "
        "be kept, 4 times out of 5; None where none can be told.",
    )


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
    largest_channel_ratio: float | None = Field(
        default=None,
        description="Of what it reads once it is smoothed: the root mean square of the largest channel over that of "
        "the median one, on the calibration tokens.",
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


class RaisedRow(ApiModel):
    """Linears that were raised to a higher precision, always all that an engine computes as one."""

    unit: str
    before: str = Field(alias="from")
    after: str = Field(alias="to", description="A scheme, or `original`.")
    damage: float = Field(description="KL divergence at the model's output that this spares, in nats a token.")
    bytes: int = Field(description="What it costs.")


class RoundRow(ApiModel):
    """A candidate that was made on the way to the one that was kept."""

    raises: int
    bytes: int
    holds: bool = Field(description="Whether it kept the limits on the selection set.")
    figures: list[Figure] = Field(description="On the selection set.")


class TaskRow(ApiModel):
    """A metric of a task, of both models on the same items."""

    task: str
    metric: str
    original: float
    candidate: float
    difference: float = Field(description="The candidate's less the original's.")
    lower: float | None = Field(default=None, description="The difference's bound below; None with too few items.")
    upper: float | None = Field(default=None, description="The difference's bound above; None with too few items.")
    items: int


class Timings(ApiModel):
    """Wall time in seconds of the parts of an evaluation."""

    original: float
    candidate: float
    compare: float


class Report(ApiModel):
    """An evaluation, whole; a Job's termination message is a part of it."""

    schema_name: Literal["saffron.dev/report/v1"] = Field(default="saffron.dev/report/v1", alias="schema")
    name: CandidateName | None = Field(default=None, description="The candidate's, where it has one.")
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
    tensor_parallel: int | None = Field(
        default=None,
        description="The largest of 1, 2, 4 and 8 GPUs that vLLM can serve it on together; None where it is not known.",
    )
    layers: list[LayerRow]
    raised: list[RaisedRow] = Field(default_factory=list, description="In the order in which they were raised.")
    rounds: list[RoundRow] = Field(default_factory=list, description="None where the candidate asks for no raising.")
    tasks: list[TaskRow] = Field(default_factory=list, description="Of lm-evaluation-harness, where some were given.")
    fingerprint: Fingerprint
    timings: Timings
    peak_bytes: int

    @property
    def units(self) -> int:
        """Conversations that the figures rest on."""
        return self.gates[0].n_units

    @property
    def level(self) -> float:
        """The level of each one-sided bound."""
        return self.fingerprint.settings.confidence

    @property
    def figures(self) -> list[Figure]:
        """The figures without what gates say of them."""
        return [Figure(name=row.name, value=row.value, lower=row.lower, upper=row.upper) for row in self.gates]

    @property
    def checkpoint_digest(self) -> str:
        """Of the candidate, under the name that `choose` looks for."""
        return self.digest

    @property
    def label(self) -> str:
        """How people tell it from others: its name, or its recipe and the head of its digest."""
        return self.name or f"{recipe(self.candidate)} ({self.digest[:8]})"

    @property
    def result(self) -> EvaluateResult:
        """The part of it that a Job tells."""
        return EvaluateResult(
            checkpoint_digest=self.digest,
            figures=self.figures,
            units=self.units,
            scored_tokens=self.scored_tokens,
            confidence=self.level,
        )


def served_together(report: Report) -> str:
    """On how many GPUs vLLM can serve a candidate, in a word or two."""
    cards = report.tensor_parallel
    return "not known" if cards is None else "one" if cards == 1 else f"up to {cards}"


def recipe(spec: CandidateSpec) -> str:
    """A recipe in a few words: method, scheme and group size, then every other choice that is not the default."""
    group = f" g{spec.effective_group_size}" if spec.effective_group_size else ""
    told = {"method", "scheme", "group_size", "name", "job"}
    others = spec.model_dump(mode="json", by_alias=True, exclude=told, exclude_defaults=True, exclude_none=True)
    return f"{spec.method} {spec.scheme}{group}" + "".join(f", {key} {_plain(value)}" for key, value in others.items())


def _plain(value: Any) -> str:  # noqa: ANN401 a JSON value
    if isinstance(value, dict):
        return " ".join(f"{key} {_plain(each)}" for key, each in value.items())
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def unjudged(figures: list[Figure], units: int, level: float) -> list[GateRow]:
    """The rows of figures that no gate looked at, with what so many conversations can show."""
    return [
        GateRow(**figure.model_dump(), n_units=units, margin=smallest_margin(figure, units=units, level=level))
        for figure in figures
    ]


def judged(report: Report, gates: Gates) -> Report:
    """The same report under other gates: verdicts are decided again, nothing is measured."""
    judgement = judge(report.figures, gates, report.units)
    rows = [
        row.model_copy(update={"limit": status.limit, "verdict": status.verdict})
        for row, status in zip(unjudged(report.figures, report.units, report.level), judgement.figures, strict=True)
    ]
    return report.model_copy(
        update={"gates": rows, "verdict": judgement.verdict, "units_needed": judgement.units_needed}
    )


def differences(reports: Sequence[Report]) -> list[str]:
    """What keeps reports from being compared, in words: figures of other data say nothing of these."""
    settings = [report.fingerprint.settings for report in reports]
    found: Mapping[str, set[Any]] = {
        "originals": {each.model_digest for each in settings},
        "data": {each.data_digest for each in settings},
        "levels of confidence": {each.confidence for each in settings},
        "ways to compute the candidate": {each.engine is None for each in settings},
    }
    return [what for what, values in found.items() if len(values) > 1]


def to_json(report: Report) -> str:
    """The report as it is written."""
    return report.model_dump_json(by_alias=True, indent=2) + "\n"


def finished_report(path: Path) -> Report | None:
    """The report that an earlier run left, or None if there is none.

    Raises:
        StageError: `SPEC_INVALID` if something else is there, which must not be lost or can't be written over.
    """
    if path.is_dir():
        raise _taken(path, "folder")
    if not path.is_file():
        return None
    try:
        return Report.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise _taken(path, "file") from error


def _taken(path: Path, what: str) -> StageError:
    failure = Failure(reason=FailureReason.SPEC_INVALID, subject=subject_of(f"--out={path}"))
    return StageError(failure, detail=f"there is a {what} of that name that is no report")
