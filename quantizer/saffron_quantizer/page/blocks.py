"""What quantizing took, block by block: a line for each candidate, or a cell for each linear of each block."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saffron_quantizer.page.drawing import TEXT, WIDTH, Style, figure, left_axis, mark, text
from saffron_quantizer.page.markup import Markup, element, join
from saffron_quantizer.page.scale import Scale, fitted
from saffron_quantizer.readable import plain, rough

_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 50.0, WIDTH - 12.0, 12.0, 150.0, 190.0
_RADIUS = 2.5
_NAMES = 104.0
_CELL = 20.0
_FAINTEST, _STRONGEST = 0.08, 1.0
_RAMP = 12


@dataclass(frozen=True)
class Series:
    """A value of each block.

    Attributes:
        name: whose values these are.
        style: of its line.
        values: one a block.
    """

    name: str
    style: Style
    values: Sequence[float]


def lines(key: str, title: str, series: Sequence[Series]) -> Markup:
    """A line for each series over the blocks; there is at least one value."""
    longest = max(len(each.values) for each in series)
    x = Scale(0, max(longest - 1, 1), _LEFT + 6, _RIGHT - 6)
    values = [value for each in series for value in each.values]
    y = fitted(values, _BOTTOM, _TOP)
    content = [
        left_axis(y, left=_LEFT, right=_RIGHT, counts=all(value.is_integer() for value in values)),
        _block_axis(longest, x),
        *(_curve(each, x, y) for each in series),
    ]
    about = "; ".join(f"{each.name}: at most {plain(max(each.values))}" for each in series)
    return figure(key, title=title, about=f"{about}.", height=_HEIGHT, content=content)


def _block_axis(count: int, x: Scale) -> Markup:
    whole = Scale(x.low, x.high, x.start, x.end)
    marks = [value for value in whole.ticks if value.is_integer() and value < count]
    numbers = (text(plain(value), x(value), _BOTTOM + TEXT + 2, anchor="middle", css="tick") for value in marks)
    return join(*numbers, text("block", (_LEFT + _RIGHT) / 2, _BOTTOM + 2.5 * TEXT + 3, anchor="middle", css="axis"))


def _curve(series: Series, x: Scale, y: Scale) -> Markup:
    places = [(x(block), y(value)) for block, value in enumerate(series.values)]
    path = "M" + " L".join(f"{across:.2f} {down:.2f}" for across, down in places)
    marks = (
        mark(series.style, *place, size=_RADIUS, tip=f"{series.name}, block {block}: {plain(value)}")
        for block, (place, value) in enumerate(zip(places, series.values, strict=True))
    )
    return join(element("path", d=path, class_=f"curve {series.style.css}"), *marks)


def cells(key: str, title: str, rows: Mapping[str, Sequence[float | None]], among: Sequence[float]) -> Markup:
    """A row of cells for each linear, a column for each block; the stronger the colour, the larger the value.

    Args:
        key: unique on the page.
        title: of the drawing.
        rows: a value, or None where there is none, for each block by the linear's name; at least one is above 0.
        among: the values above 0 of all drawings that this one is to be compared with, which share their colours.
    """
    values = [value for row in rows.values() for value in row if value]
    strength = fitted(among, _FAINTEST, _STRONGEST)
    count = max(len(row) for row in rows.values())
    width = (WIDTH - _NAMES - 6) / count
    bottom = _TOP + _CELL * len(rows)
    content = [
        *(_cell_row(name, row, number, width, strength) for number, (name, row) in enumerate(rows.items())),
        text("first block", _NAMES, bottom + TEXT + 2, css="tick"),
        text("last", _NAMES + count * width, bottom + TEXT + 2, anchor="end", css="tick"),
        _ramp(strength, min(among), max(among), bottom + 2 * TEXT),
    ]
    about = f"{len(rows)} linears in {count} blocks; from {plain(min(values))} to {plain(max(values))}."
    return figure(key, title=title, about=about, height=bottom + 4 * TEXT, content=content)


def _cell_row(name: str, row: Sequence[float | None], number: int, width: float, strength: Scale) -> Markup:
    top = _TOP + _CELL * number
    boxes = (
        element(
            "rect",
            element("title", f"{name}, block {block}: {plain(value)}"),
            x=_NAMES + block * width,
            y=top,
            width=max(width - min(1.0, width / 8), 0.5),
            height=_CELL - 1,
            class_="cell",
            fill_opacity=strength(value) if value else _FAINTEST,
        )
        for block, value in enumerate(row)
        if value is not None and math.isfinite(value)
    )
    short = name.rsplit(".", maxsplit=1)[-1]
    return join(text(short, _NAMES - 6, top + _CELL - 6, anchor="end", css="name"), *boxes)


def _ramp(strength: Scale, least: float, most: float, top: float) -> Markup:
    """What the strengths stand for."""
    step = 5.0
    boxes = (
        element(
            "rect", x=_NAMES + number * step, y=top, width=step, height=10.0, class_="cell",
            fill_opacity=strength.start + (strength.end - strength.start) * number / (_RAMP - 1),
        )
        for number in range(_RAMP)
    )  # fmt: skip
    end = _NAMES + _RAMP * step
    return join(
        text(rough(least), _NAMES - 6, top + 9, anchor="end", css="tick"),
        *boxes,
        text(rough(most), end + 6, top + 9, css="tick"),
    )
