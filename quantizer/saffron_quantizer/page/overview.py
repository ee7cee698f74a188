"""The first things on the page: what was decided, what it saves, and every candidate in one table."""

from collections.abc import Sequence

from saffron_api.gates import EXACT_FIGURES
from saffron_api.quantized_model import Verdict
from saffron_api.results import FigureName
from saffron_quantizer.page.markup import Markup, element, join
from saffron_quantizer.page.table import Row, section, table, verdict
from saffron_quantizer.readable import measured, size
from saffron_quantizer.report import FIGURE_TITLES, GateRow, Report, recipe, served_together

NOT_MEASURED = "not measured"


def rows_by_name(report: Report) -> dict[FigureName, GateRow]:
    """A report's figures by name."""
    return {row.name: row for row in report.gates}


def overview(reports: Sequence[Report], chosen: Report | None) -> Markup:
    """What was decided, and the candidates side by side."""
    return section(
        "verdict",
        "The verdict",
        element("p", headline(reports, chosen), class_="headline"),
        _tiles(chosen) if chosen is not None else None,
        _table(reports, chosen),
    )


def headline(reports: Sequence[Report], chosen: Report | None) -> str:
    """The page in a sentence or two."""
    passed = sum(report.verdict is Verdict.PASS for report in reports)
    judged = sum(report.verdict is not None for report in reports)
    if not judged:
        return "These figures were judged by no gate: there is no verdict."
    told = f"{passed} of {judged} candidate{'s' if judged > 1 else ''} pass{'es' if judged == 1 else ''} every gate."
    if chosen is not None:
        share = chosen.bytes / chosen.original_bytes
        return (
            f"{told} Selected: {chosen.label}, {size(chosen.bytes)} instead of {size(chosen.original_bytes)}, "
            f"{share:.0%} of the original's bytes."
        )
    if any(report.verdict is Verdict.INCONCLUSIVE for report in reports):
        return f"{told} None is selected: for at least one, these data do not suffice to say whether it passes."
    return f"{told} None is selected."


def _tiles(chosen: Report) -> Markup:
    found = rows_by_name(chosen)
    saved = 1 - chosen.bytes / chosen.original_bytes
    tiles = [(f"{saved:.0%}", "of the bytes saved", f"{size(chosen.original_bytes)} → {size(chosen.bytes)}")]
    for name, what in (
        (FigureName.PERPLEXITY_RATIO, "perplexity ratio"),
        (FigureName.KL_DIVERGENCE, "nats a token of KL divergence"),
        (FigureName.TOP_TOKEN_AGREEMENT, "of tokens: the same most likely"),
    ):
        if name in found:
            row = found[name]
            bounds = f"{measured(row.lower)} to {measured(row.upper)}, by its bounds"
            tiles.append((measured(row.value), what, bounds))
    items = (
        element("li", element("b", value), element("span", what), element("span", how)) for value, what, how in tiles
    )
    return element("ul", *items, class_="tiles")


def _table(reports: Sequence[Report], chosen: Report | None) -> Markup:
    figures = [name for name in FigureName if name not in EXACT_FIGURES]
    columns = ["candidate", "verdict", "bytes, share", "GPUs together", *(FIGURE_TITLES[name] for name in figures)]
    rows = []
    for number, report in enumerate(reports, start=1):
        found = rows_by_name(report)
        cells = [_interval(found[name]) if name in found else NOT_MEASURED for name in figures]
        rows.append(
            Row(
                title=f"{number} {report.label}",
                about=recipe(report.candidate) if report.name else "",
                cells=[verdict(report.verdict), _bytes(report), served_together(report), *cells],
                chosen=report is chosen,
            )
        )
    return table("Every candidate, the smallest first: value [lower bound, upper bound]", columns, rows)


def _bytes(report: Report) -> Markup:
    return join(f"{size(report.bytes)} ", element("small", f"{report.bytes / report.original_bytes:.1%}"))


def _interval(row: GateRow) -> Markup:
    """A value and, below it, its bounds."""
    return join(f"{measured(row.value)} ", element("small", f"[{measured(row.lower)}, {measured(row.upper)}]"))
