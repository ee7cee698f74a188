"""The section on linears that were raised to a higher precision, and on the candidates that were made on the way."""

from collections.abc import Sequence

from saffron_api.gates import EXACT_FIGURES
from saffron_api.results import FigureName
from saffron_quantizer.page.markup import Markup, element
from saffron_quantizer.page.table import NOTHING, Row, section, table
from saffron_quantizer.readable import measured, plain, size
from saffron_quantizer.report import FIGURE_TITLES, RaisedRow, Report, RoundRow

_SAMPLED = [name for name in FigureName if name not in EXACT_FIGURES]


def raised_section(reports: Sequence[Report]) -> Markup | None:
    """What was raised and why, where a candidate asks for that."""
    asked = [(f"{number} {report.label}", report) for number, report in enumerate(reports, start=1) if report.rounds]
    if not asked:
        return None
    return section(
        "raised",
        "Kept exact where it matters",
        element(
            "p",
            "The linears that do most damage a byte were raised to a higher precision, as few as keep the limits on "
            "the selection set. The figures of the gates, above, are of other conversations.",
        ),
        *(part for name, report in asked for part in (_rounds(name, report.rounds), _raised(name, report.raised))),
    )


def _rounds(name: str, rounds: Sequence[RoundRow]) -> Markup:
    rows = [
        Row(
            f"{each.raises} raised" if each.raises else "nothing raised",
            [size(each.bytes), *_figures(each), "yes" if each.holds else "no"],
        )
        for each in sorted(rounds, key=lambda each: each.raises)
    ]
    columns = ["round", "bytes", *(FIGURE_TITLES[figure] for figure in _SAMPLED), "limits hold"]
    return table(
        f"{name}: candidates that were made, on the selection set: value [lower bound, upper bound]", columns, rows
    )


def _figures(made: RoundRow) -> list[str]:
    found = {figure.name: figure for figure in made.figures}
    return [
        f"{measured(figure.value)} [{measured(figure.lower)}, {measured(figure.upper)}]"
        if (figure := found.get(name)) is not None
        else NOTHING
        for name in _SAMPLED
    ]


def _raised(name: str, raised: Sequence[RaisedRow]) -> Markup:
    if not raised:
        return element("p", f"{name}: the limits hold with nothing raised.", class_="soft")
    rows = [Row(each.unit, [each.before, each.after, plain(each.damage), size(each.bytes)]) for each in raised]
    return table(f"{name}: what was raised", ["linears", "from", "to", "nats a token spared", "bytes added"], rows)
