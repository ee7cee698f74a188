"""The sections on how the checkpoints were made, block by block: errors, damping, dead columns, salient channels."""

import re
from collections.abc import Callable, Sequence

from saffron_quantizer.page.blocks import Series, cells, lines
from saffron_quantizer.page.drawing import legend, style_of_number
from saffron_quantizer.page.markup import Markup, element
from saffron_quantizer.page.table import NOTHING, Row, folded, section, table
from saffron_quantizer.report import LayerRow, LinearRow, Report
from saffron_quantizer.units import plain

_NUMBERED = re.compile(r"\.\d+(?=\.|$)")
_SALIENT = 10
"""How many of the most salient linears the table names."""


def blocks_section(reports: Sequence[Report]) -> Markup:
    """Error, damping and dead columns, block by block."""
    return section(
        "blocks",
        "Block by block",
        element("h3", "Error of each linear's output"),
        *_per_linear(
            reports,
            "error",
            lambda linear: linear.relative_error,
            title="relative output error on the calibration tokens",
            absent="The checkpoints' notes have no errors of single linears.",
        ),
        element("h3", "Damping and dead columns"),
        *_per_block(reports),
        *(_layer_table(report) for report in reports),
    )


def channels_section(reports: Sequence[Report]) -> Markup:
    """Which linears have input channels that tower above the others, and what was done about them."""
    return section(
        "channels",
        "Salient channels",
        element(
            "p",
            "How far a linear's largest input channel stands above its median one. Where a few channels carry most of "
            "the signal, rounding is dearest, and scaling, smoothing or more bits pay most.",
        ),
        *_per_linear(
            reports,
            "salient",
            lambda linear: linear.largest_channel_ratio,
            title="largest input channel over the median one",
            absent="The checkpoints' notes say nothing of channels: plain rounding reads no activations, and not every "
            "method looks at them.",
        ),
        _salient_table(reports),
    )


def _per_linear(
    reports: Sequence[Report], key: str, value: Callable[[LinearRow], float | None], *, title: str, absent: str
) -> list[Markup]:
    """A drawing of one value for each candidate that has it, or the sentence that none has."""
    drawings = []
    for number, report in enumerate(reports, start=1):
        rows = _grid(report.layers, value)
        if any(each for row in rows.values() for each in row):
            drawings.append(cells(f"{key}-{number}", f"{number} {report.label}: {title}", rows))
    if not drawings:
        return [element("p", absent, class_="soft")]
    without = len(reports) - len(drawings)
    more = f"{without} of {len(reports)} candidates have no such notes." if without else None
    return [element("div", *drawings, class_="plots"), *([element("p", more, class_="soft")] if more else [])]


def _grid(layers: Sequence[LayerRow], value: Callable[[LinearRow], float | None]) -> dict[str, list[float | None]]:
    """A value for each block by the linear's name; of experts, which differ by a number only, the largest."""
    names = dict.fromkeys(_kind(linear) for layer in layers for linear in layer.linears)
    rows: dict[str, list[float | None]] = {name: [] for name in names}
    for layer in layers:
        found: dict[str, float] = {}
        for linear in layer.linears:
            each = value(linear)
            if each is not None:
                found[_kind(linear)] = max(each, found.get(_kind(linear), each))
        for name, row in rows.items():
            row.append(found.get(name))
    return {name: row for name, row in rows.items() if any(each is not None for each in row)}


def _kind(linear: LinearRow) -> str:
    return _NUMBERED.sub("", linear.name)


def _per_block(reports: Sequence[Report]) -> list[Markup]:
    found = [(number, report) for number, report in enumerate(reports, start=1) if report.layers]
    if not found:
        return [element("p", "The checkpoints' notes have no blocks.", class_="soft")]
    drawings, words, drawn = [], [], set[int]()
    for key, title, value, none in (
        ("damping", "largest damping of a Hessian", lambda layer: layer.max_damping, "No Hessian was damped"),
        ("dead", "dead input columns", lambda layer: float(layer.dead_columns), "No input column was dead"),
    ):
        series = [
            Series(f"{number} {report.label}", style_of_number(number - 1), [value(layer) for layer in report.layers])
            for number, report in found
        ]
        told = [each for each in series if any(each.values)]
        flat = {each for one in told for each in one.values}
        if not told:
            words.append(element("p", f"{none} in any candidate.", class_="soft"))
        elif len(flat) == 1:
            names = ", ".join(each.name for each in told)
            words.append(element("p", f"The {title} is {plain(flat.pop())} in every block of {names}.", class_="soft"))
        else:
            drawings.append(lines(key, title, told))
            drawn |= {number for (number, _), one in zip(found, series, strict=True) if one in told}
    marks = legend(
        [(f"{number} {report.label}", style_of_number(number - 1)) for number, report in found if number in drawn]
    )
    return [*words, *([marks, element("div", *drawings, class_="plots")] if drawings else [])]


def _layer_table(report: Report) -> Markup:
    columns = ["block", "linears", "largest damping", "dead columns", "largest error", "in"]
    rows = []
    for layer in report.layers:
        worst = max(layer.linears, key=lambda linear: linear.relative_error or 0.0, default=None)
        known = worst is not None and worst.relative_error is not None
        error = [plain(worst.relative_error or 0.0), worst.name] if worst is not None and known else [NOTHING, NOTHING]
        rows.append(
            Row(str(layer.block), [str(layer.modules), plain(layer.max_damping), str(layer.dead_columns), *error])
        )
    caption = f"{report.label}, {len(report.layers)} blocks"
    return folded(f"Table: {caption}", table(caption, columns, rows))


def _salient_table(reports: Sequence[Report]) -> Markup | None:
    """The linears whose channels differ most, with how they were treated."""
    found = [
        (linear.largest_channel_ratio, report, layer.block, linear)
        for report in reports
        for layer in report.layers
        for linear in layer.linears
        if linear.largest_channel_ratio is not None
    ]
    if not found:
        return None
    found.sort(key=lambda each: -each[0])
    rows = [
        Row(f"block {block}, {linear.name}", [report.label, plain(ratio), *_treatment(linear)])
        for ratio, report, block, linear in found[:_SALIENT]
    ]
    columns = ["linear", "candidate", "largest over median", "smoothing", "scales", "column order", "error"]
    return table(f"The {len(rows)} linears whose input channels differ most", columns, rows)


def _treatment(linear: LinearRow) -> list[str]:
    """What was done to a linear, as far as its notes tell."""
    alpha, error = linear.smoothing_alpha, linear.relative_error
    return [
        NOTHING if alpha is None else plain(alpha),
        linear.scale_search or NOTHING,
        linear.act_order or NOTHING,
        NOTHING if error is None else plain(error),
    ]
