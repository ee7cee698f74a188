"""The sections on what was measured: each figure against bytes, then against the limit of its gate."""

from collections.abc import Sequence

from saffron_api.candidate import Scheme
from saffron_api.gates import EXACT_FIGURES, MIN_UNITS
from saffron_api.results import FigureName
from saffron_quantizer.page.drawing import legend, style_of
from saffron_quantizer.page.intervals import intervals
from saffron_quantizer.page.markup import Markup, element
from saffron_quantizer.page.overview import rows_by_name
from saffron_quantizer.page.quality import Point, quality
from saffron_quantizer.page.table import NOTHING, Row, section, table, verdict
from saffron_quantizer.readable import measured, plain, rough
from saffron_quantizer.report import FIGURE_TITLES, GateRow, Report, TaskRow

_TITLES = {
    FigureName.PERPLEXITY_RATIO: "Perplexity ratio: lower is better, 1 is the original",
    FigureName.KL_DIVERGENCE: "KL divergence: lower is better, 0 is the original",
    FigureName.TOP_TOKEN_AGREEMENT: "Same top token: higher is better, 1 is the original",
    FigureName.CHECKPOINT_BYTES_RATIO: "Bytes, as a share of the original's",
}


def quality_section(reports: Sequence[Report]) -> Markup:
    """What each candidate costs in quality for the bytes that it saves."""
    drawings = [
        quality(f"quality-{name}", _TITLES[name], name, points, _limits(reports, name))
        for name in FigureName
        if name not in EXACT_FIGURES and (points := _points(reports, name))
    ]
    schemes = [scheme for scheme in Scheme if any(report.candidate.scheme is scheme for report in reports)]
    return section(
        "quality",
        "Quality against size",
        element(
            "p",
            "Further left is smaller. Each number is a candidate's, as in the table above; the bars are its bounds. "
            "Points that would cover each other stand side by side.",
        ),
        legend([(scheme.value, style_of(scheme)) for scheme in schemes]),
        element("div", *drawings, class_="plots"),
        _absent(reports),
    )


def _absent(reports: Sequence[Report]) -> Markup | None:
    """Which figures could not be measured, and why."""
    engines = [report for report in reports if report.fingerprint.settings.engine is not None]
    if not engines:
        return None
    names = ", ".join(report.label for report in engines)
    return element(
        "p",
        f"{names}: measured through a running engine, which tells the log-probability of the text's own tokens only. "
        "KL divergence and agreement need the whole vocabulary and are absent.",
        class_="soft",
    )


def gates_section(reports: Sequence[Report]) -> Markup:
    """Each figure's interval against its limit, and what so many conversations can show at all."""
    drawings = [
        intervals(f"gate-{name}", _TITLES[name].partition(":")[0], FIGURE_TITLES[name], points, _limits(reports, name))
        for name in FigureName
        if (points := _points(reports, name))
    ]
    rows = [
        Row(f"{number} {report.label}", _gate_cells(row), about=FIGURE_TITLES[row.name])
        for number, report in enumerate(reports, start=1)
        for row in report.gates
    ]
    columns = ["candidate, figure", "value", "lower bound", "upper bound", "limit", "verdict", "smallest margin"]
    return section(
        "gates",
        "Figures, bounds and gates",
        element(
            "p",
            "A candidate passes a gate when its whole interval lies on the good side of the limit, and fails when all "
            "of it lies on the other. In between, these data do not say.",
        ),
        element("div", *drawings, class_="plots"),
        *(element("p", words) for words in _power(reports)),
        table("Each figure, its bounds, and what its gate says", columns, rows),
    )


def tasks_section(reports: Sequence[Report]) -> Markup | None:
    """Accuracy on tasks, where some were given."""
    rows = [
        Row(f"{number} {report.label}", _task_cells(row), about=f"{row.task}, {row.metric}")
        for number, report in enumerate(reports, start=1)
        for row in report.tasks
    ]
    if not rows:
        return None
    columns = ["candidate, task", "original", "candidate", "difference", "lower bound", "upper bound", "items"]
    words = "Both models on the same items; no gate looks at these. The bounds are those of the difference."
    return section("tasks", "Tasks", element("p", words), table("Accuracy on each task", columns, rows))


def _task_cells(row: TaskRow) -> list[str]:
    bounds = [NOTHING if bound is None else f"{bound:+.4f}" for bound in (row.lower, row.upper)]
    return [plain(row.original), plain(row.candidate), f"{row.difference:+.4f}", *bounds, f"{row.items:,}"]


def _power(reports: Sequence[Report]) -> list[str]:
    """What the numbers of conversations can show, in words."""
    told = []
    for units in sorted({report.units for report in reports}):
        if units < MIN_UNITS:
            told.append(f"At {units} conversations no margin can be shown: {MIN_UNITS} are the least.")
            continue
        rows = [row for report in reports if report.units == units for row in report.gates]
        margins = [
            f"{_range(found)} for {FIGURE_TITLES[name]}"
            for name in FigureName
            if name not in EXACT_FIGURES
            and (found := [row.margin for row in rows if row.name is name and row.margin is not None])
        ]
        if margins:
            told.append(
                f"At {units} conversations the smallest margin that can be shown, 4 times out of 5, is "
                f"{', '.join(margins)}: a limit nearer than that to a candidate's true figure would often leave it "
                "Inconclusive."
            )
    return told


def _range(values: Sequence[float]) -> str:
    """From the smallest to the largest; one number where these are told alike."""
    return " to ".join(dict.fromkeys([rough(min(values)), rough(max(values))]))


def _gate_cells(row: GateRow) -> list[str]:
    limit = NOTHING if row.limit is None else plain(row.limit)
    margin = "counted" if row.name in EXACT_FIGURES else NOTHING if row.margin is None else rough(row.margin)
    bounds = [measured(row.value), measured(row.lower), measured(row.upper)]
    return [*bounds, limit, verdict(row.verdict), margin]


def _points(reports: Sequence[Report], name: FigureName) -> list[Point]:
    """The candidates of which a figure was measured."""
    return [
        Point(
            number=number,
            name=report.label,
            style=style_of(report.candidate.scheme),
            size=report.bytes / report.original_bytes,
            value=row.value,
            lower=row.lower,
            upper=row.upper,
        )
        for number, report in enumerate(reports, start=1)
        if (row := rows_by_name(report).get(name)) is not None
    ]


def _limits(reports: Sequence[Report], name: FigureName) -> list[float]:
    found = {row.limit for report in reports for row in report.gates if row.name is name and row.limit is not None}
    return sorted(found)
