"""Reports as tables: one candidate's figures, or several candidates side by side."""

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from saffron_api.gates import EXACT_FIGURES, MIN_UNITS
from saffron_api.quantized_model import Verdict
from saffron_api.results import FigureName
from saffron_quantizer.readable import rough, size
from saffron_quantizer.report import FIGURE_TITLES, GateRow, Report, TaskRow

_WIDE = 200


def report_text(report: Report) -> str:
    """One candidate: a line a figure, then the verdict."""
    table = Table(box=None, pad_edge=False)
    for title in ("figure", "value", "lower", "upper", "limit", "verdict"):
        table.add_column(title, justify="left" if title in {"figure", "verdict"} else "right")
    for row in report.gates:
        limit = "-" if row.limit is None else f"{row.limit:g}"
        bounds = (f"{row.value:.4f}", f"{row.lower:.4f}", f"{row.upper:.4f}")
        table.add_row(FIGURE_TITLES[row.name], *bounds, limit, row.verdict or "-")
    summary = (
        f"{report.units} conversations, {report.scored_tokens:,} scored tokens, each bound at {report.level:.4g}; "
        f"perplexity {report.perplexity_original:.3f} -> {report.perplexity_candidate:.3f}, "
        f"{size(report.original_bytes)} -> {size(report.bytes)}"
    )
    lines = [_drawn(table), summary, power(report)]
    if report.tasks:
        lines.append(_drawn(_tasks(report.tasks)))
    if report.verdict is not None:
        lines.append(f"verdict: {report.verdict}{_why(report)}")
    return "\n".join(lines)


def _tasks(rows: Sequence[TaskRow]) -> Table:
    """Accuracy of both models, and their difference."""
    table = Table(box=None, pad_edge=False)
    for title in ("task", "metric", "original", "candidate", "difference", "lower", "upper", "items"):
        table.add_column(title, justify="left" if title in {"task", "metric"} else "right")
    for row in rows:
        bounds = ("-" if bound is None else f"{bound:+.4f}" for bound in (row.lower, row.upper))
        values = (f"{row.original:.4f}", f"{row.candidate:.4f}", f"{row.difference:+.4f}")
        table.add_row(row.task, row.metric, *values, *bounds, f"{row.items:,}")
    return table


def power(report: Report) -> str:
    """What so many conversations can show at all: the smallest margin of each figure that is sampled."""
    sampled = [row for row in report.gates if row.name not in EXACT_FIGURES]
    if report.units < MIN_UNITS:
        return f"at {report.units} conversations no margin can be shown; {MIN_UNITS} are the least"
    told = ", ".join(f"{FIGURE_TITLES[row.name]} {_margin(row)}" for row in sampled)
    return f"at {report.units} conversations the smallest margin that can be shown, 4 times out of 5: {told}"


def _margin(row: GateRow) -> str:
    return "unknown, for all conversations say the same" if row.margin is None else rough(row.margin)


def _why(report: Report) -> str:
    """What would settle a verdict that is not conclusive."""
    if report.verdict is not Verdict.INCONCLUSIVE:
        return ""
    if report.units < MIN_UNITS:
        return f"; {MIN_UNITS} conversations are the least that bounds can rest on"
    if report.units_needed is None:
        return "; no number of conversations would settle it"
    return f"; about {report.units_needed} conversations would settle it"


def comparison(reports: Sequence[Report]) -> str:
    """Several candidates: a line each, smallest first, with value and bounds of each figure."""
    table = Table(box=None, pad_edge=False)
    table.add_column("candidate")
    table.add_column("bytes", justify="right")
    for name in FigureName:
        table.add_column(FIGURE_TITLES[name], justify="right")
    table.add_column("verdict")
    for report in sorted(reports, key=lambda each: each.bytes):
        rows = {row.name: row for row in report.gates}
        cells = (_cell(rows[name]) if name in rows else "-" for name in FigureName)
        table.add_row(report.label, f"{report.bytes:,}", *cells, report.verdict or "-")
    return _drawn(table)


def _cell(row: GateRow) -> str:
    # An exact figure has nothing on either side of it.
    if row.lower == row.upper:
        return f"{row.value:.3f}"
    return f"{row.value:.3f} [{row.lower:.3f}, {row.upper:.3f}]"


def _drawn(table: Table) -> str:
    console = Console(file=io.StringIO(), width=_WIDE, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
