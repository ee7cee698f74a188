"""The sections on how the checkpoints were made, block by block: errors, damping, dead columns, salient channels."""

import re
from collections.abc import Sequence

from saffron_quantizer.page.blocks import Series, cells, lines
from saffron_quantizer.page.drawing import legend, style_of_number
from saffron_quantizer.page.markup import Markup, element
from saffron_quantizer.page.table import NOTHING, Row, folded, section, table
from saffron_quantizer.readable import plain
from saffron_quantizer.report import EdgeRow, LayerRow, LinearRow, Report

_NUMBERED = re.compile(r"\.\d+(?=\.|$)")
_SALIENT = 10
"""How many of the most salient linears the table names."""


Grid = dict[str, list[float | None]]
"""A value for each block by name."""

Notes = Sequence[tuple[str, float | None]]
"""Names and values of one block."""


def blocks_section(reports: Sequence[Report]) -> Markup:
    """Error, damping and dead columns, block by block."""
    return section(
        "blocks",
        "Block by block",
        element("h3", "Error of each linear's output"),
        *_drawn(
            reports,
            "error",
            [_grid([_errors(layer) for layer in report.layers]) for report in reports],
            title="output error on the calibration tokens, %",
            absent="The checkpoints' notes have no errors of single linears.",
        ),
        element("h3", "Damping and dead columns"),
        *_per_block(reports),
        *(_layer_table(report) for report in reports),
    )


def channels_section(reports: Sequence[Report]) -> Markup:
    """Which input channels tower above the others, and what was done about them."""
    return section(
        "channels",
        "Salient channels",
        element(
            "p",
            "How far the largest input channel of a linear stands above the median one, and by how much the largest "
            "was scaled before rounding. Where a few channels carry most of the signal, rounding is dearest, and "
            "scaling, smoothing or more bits pay most.",
        ),
        *_drawn(
            reports,
            "salient",
            [_grid([_ratios(layer) for layer in report.layers]) for report in reports],
            title="largest input channel over the median one",
            absent="The checkpoints' notes have no magnitudes of channels.",
        ),
        _salient_table(reports),
        *_drawn(
            reports,
            "scale",
            [_grid([_scales(layer) for layer in report.layers]) for report in reports],
            title="largest scale of a channel, by its producer",
            absent="No candidate was smoothed: plain rounding and GPTQ alone scale no channels.",
        ),
        _edge_table(reports),
    )


def _errors(layer: LayerRow) -> Notes:
    return [(linear.name, _percent(linear)) for linear in layer.linears]


def _percent(linear: LinearRow) -> float | None:
    """Its error; as a plain share it would be a power of ten where it is small."""
    return None if linear.relative_error is None else 100 * linear.relative_error


def _ratios(layer: LayerRow) -> Notes:
    return [(linear.name, linear.largest_channel_ratio) for linear in layer.linears]


def _scales(layer: LayerRow) -> Notes:
    return [(edge.producer, edge.largest_scale) for edge in layer.edges]


def _drawn(reports: Sequence[Report], key: str, grids: Sequence[Grid], *, title: str, absent: str) -> list[Markup]:
    """A drawing for each candidate that has such notes, or the sentence that none has."""
    values = [value for grid in grids for row in grid.values() for value in row if value]
    drawings = [
        cells(f"{key}-{number}", f"{number} {report.label}: {title}", grid, values)
        for number, (report, grid) in enumerate(zip(reports, grids, strict=True), start=1)
        if any(value for row in grid.values() for value in row)
    ]
    if not drawings:
        return [element("p", absent, class_="soft")]
    without = len(reports) - len(drawings)
    more = f"{without} of {len(reports)} candidates have no such notes." if without else None
    return [element("div", *drawings, class_="plots"), *([element("p", more, class_="soft")] if more else [])]


def _grid(blocks: Sequence[Notes]) -> Grid:
    """A value for each block by name; of experts, which differ by a number only, the largest."""
    # In the order of a block that has them all, since one whose first is left as it is may lack some.
    fullest = max(blocks, key=len, default=())
    rows: Grid = {_NUMBERED.sub("", name): [None] * len(blocks) for name, _ in fullest}
    for block, notes in enumerate(blocks):
        for name, value in notes:
            row = rows.setdefault(_NUMBERED.sub("", name), [None] * len(blocks))
            if value is not None:
                row[block] = max(value, row[block] or value)
    return {name: row for name, row in rows.items() if any(value is not None for value in row)}


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
            words += [element("p", f"The {title} are the same in {each}.", class_="soft") for each in _alike(told)]
            drawn |= {number for (number, _), one in zip(found, series, strict=True) if one in told}
    marks = legend(
        [(f"{number} {report.label}", style_of_number(number - 1)) for number, report in found if number in drawn]
    )
    return [*words, *([marks, element("div", *drawings, class_="plots")] if drawings else [])]


def _alike(series: Sequence[Series]) -> list[str]:
    """The names of those whose lines cover each other."""
    by_values: dict[tuple[float, ...], list[str]] = {}
    for each in series:
        by_values.setdefault(tuple(each.values), []).append(each.name)
    return [", ".join(names) for names in by_values.values() if len(names) > 1]


def _layer_table(report: Report) -> Markup:
    columns = ["block", "linears", "largest damping", "dead columns", "largest error, %", "in"]
    rows = []
    for layer in report.layers:
        worst = max(layer.linears, key=lambda linear: linear.relative_error or 0.0, default=None)
        known = worst is not None and worst.relative_error is not None
        error = [plain(_percent(worst) or 0.0), worst.name] if worst is not None and known else [NOTHING, NOTHING]
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
    columns = ["linear", "candidate", "largest over median", "scales", "column order", "error, %"]
    return table(f"The {len(rows)} linears whose input channels differ most", columns, rows)


def _treatment(linear: LinearRow) -> list[str]:
    """What was done to a linear, as far as its notes tell."""
    error = _percent(linear)
    return [linear.scale_search or NOTHING, linear.act_order or NOTHING, NOTHING if error is None else plain(error)]


def _edge_table(reports: Sequence[Report]) -> Markup | None:
    """The edges whose channels were scaled most."""
    found = [(edge, report, layer.block) for report in reports for layer in report.layers for edge in layer.edges]
    if not found:
        return None
    found.sort(key=lambda each: -each[0].largest_scale)
    rows = [Row(f"block {block}, {edge.producer}", [report.label, *_smoothing(edge)]) for edge, report, block in found]
    caption = f"The {len(rows[:_SALIENT])} producers whose channels were scaled most"
    return table(caption, ["producer", "candidate", "largest scale", "exponent", "error left"], rows[:_SALIENT])


def _smoothing(edge: EdgeRow) -> list[str]:
    exponent = "no scales" if edge.exponent is None else plain(edge.exponent)
    return [plain(edge.largest_scale), exponent, f"{edge.error:.1%}"]
