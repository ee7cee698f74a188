"""Tell a status in sentences: what is new in it, and the table of candidates. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from saffron_api.results import FigureName
from saffron_api.status import CandidateState, CandidateStatus, Condition, FigureStatus, QuantizedModelStatus, Verdict

_TOLD = ("Stalled", "Reconciling", "Ready")
"""The first of these that a status has says best what goes on."""

_HEADINGS = {
    FigureName.PERPLEXITY_RATIO: "perplexity ratio",
    FigureName.KL_DIVERGENCE: "KL divergence",
    FigureName.TOP_TOKEN_AGREEMENT: "top-token agreement",
    FigureName.CHECKPOINT_BYTES_RATIO: "bytes ratio",
}
_GOES_ON = frozenset({CandidateState.PENDING, CandidateState.RUNNING})
"""The headline tells of these."""
_LOWER_LIMITS = frozenset({FigureName.TOP_TOKEN_AGREEMENT})


def news(before: QuantizedModelStatus, now: QuantizedModelStatus) -> Iterator[str]:
    """Yield a line for each thing that a person would want to know."""
    told = headline(now)
    if told is not None and told != headline(before):
        yield told
    if now.samples is not None and before.samples is None:
        sets = now.samples
        yield (
            f"sampled: {sets.calibration.count} conversations to calibrate, {sets.selection.count} to search, "
            f"{sets.gate.count} for the gates ({sets.gate.tokens} tokens)"
        )
    known = {candidate.name: candidate for candidate in before.candidates}
    for candidate in now.candidates:
        line = candidate_line(candidate)
        if candidate.state not in _GOES_ON and (
            candidate.name not in known or line != candidate_line(known[candidate.name])
        ):
            yield line
    if now.selected is not None and now.selected != before.selected:
        yield f"selected: {now.selected.name}, {now.selected.uri}"


def headline(status: QuantizedModelStatus) -> str | None:
    """Return the phase with the message of the condition that explains it."""
    conditions = {condition.type: condition for condition in status.conditions}
    for name in _TOLD:
        if name in conditions:
            condition: Condition = conditions[name]
            phase = status.phase or name
            reason = "" if phase == condition.reason else f" ({condition.reason})"
            return f"{phase}{reason}: {condition.message}"
    return None


def candidate_line(candidate: CandidateStatus) -> str:
    """Return a candidate's state, and its verdict with the gates that were missed."""
    words = [f"{candidate.name}: {candidate.state}"]
    if candidate.verdict is not None:
        missed = [
            f"{_HEADINGS[figure.name]} {_bounds(figure)} against {_limit(figure)}"
            for figure in candidate.figures
            if figure.verdict not in {None, Verdict.PASS}
        ]
        words.append(f"{candidate.verdict}" + (f" ({'; '.join(missed)})" if missed else ""))
    if candidate.message is not None:
        words.append(candidate.message)
    return ", ".join(words)


def candidates_table(candidates: Sequence[CandidateStatus], confidence: float) -> str:
    """Return the table of candidates: bytes, each figure with its bounds and its gate, verdict."""
    names = [name for name in FigureName if any(_figure(candidate, name) for candidate in candidates)]
    header = ["candidate", "tensor bytes", *(_HEADINGS[name] for name in names), "verdict"]
    gates = ["", "", *(_gate(candidates, name) for name in names), ""]
    rows = [
        [
            candidate.name,
            f"{candidate.bytes / 1e6:.1f} MB" if candidate.bytes is not None else "-",
            *(_cell(_figure(candidate, name)) for name in names),
            str(candidate.verdict or candidate.state),
        ]
        for candidate in candidates
    ]
    heading = [header, gates] if names else [header]
    widths = [max(len(row[column]) for row in [*heading, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in heading]
    lines += ["  ".join("-" * width for width in widths)]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    note = f"[lower, upper]: together these bounds hold with {confidence:.0%} confidence over all candidates."
    return "\n".join([*(line.rstrip() for line in lines), note])


def job_seconds(jobs: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Return how long each finished Job took, in the order in which they began."""
    spans = []
    for job in jobs:
        status = job.get("status", {})
        ended = status.get("completionTime") or next(
            (item["lastTransitionTime"] for item in status.get("conditions", ()) if item["type"] == "Failed"), None
        )
        if "startTime" in status and ended is not None:
            begun = datetime.fromisoformat(status["startTime"])
            seconds = (datetime.fromisoformat(ended) - begun).total_seconds()
            spans.append((begun, job["metadata"]["name"], seconds))
    return [(name, seconds) for _, name, seconds in sorted(spans)]


def _figure(candidate: CandidateStatus, name: FigureName) -> FigureStatus | None:
    return next((figure for figure in candidate.figures if figure.name == name), None)


def _cell(figure: FigureStatus | None) -> str:
    if figure is None:
        return "-"
    return f"{figure.value:.3f} {_bounds(figure)}" if figure.lower != figure.upper else f"{figure.value:.3f}"


def _bounds(figure: FigureStatus) -> str:
    return f"[{figure.lower:.3f}, {figure.upper:.3f}]"


def _gate(candidates: Sequence[CandidateStatus], name: FigureName) -> str:
    for candidate in candidates:
        figure = _figure(candidate, name)
        if figure is not None and figure.limit is not None:
            return _limit(figure)
    return "no gate"


def _limit(figure: FigureStatus) -> str:
    return f"{'min' if figure.name in _LOWER_LIMITS else 'max'} {figure.limit:g}"
