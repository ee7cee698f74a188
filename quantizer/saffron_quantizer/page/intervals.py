"""A figure of every candidate as an interval on one axis, against the limit of its gate."""

from collections.abc import Sequence

from saffron_quantizer.page.drawing import TEXT, WIDTH, bottom_axis, figure, line, mark, text
from saffron_quantizer.page.markup import Markup, join
from saffron_quantizer.page.quality import Point
from saffron_quantizer.page.scale import Scale, fitted
from saffron_quantizer.readable import plain

_LEFT, _RIGHT, _TOP = 14.0, WIDTH - 14.0, 20.0
_ROW = 36.0
_FOOT = 38.0
_RADIUS = 5.0
_CAP = 5.0


def intervals(key: str, title: str, unit: str, points: Sequence[Point], limits: Sequence[float]) -> Markup:
    """The drawing of one figure.

    Args:
        key: unique on the page.
        title: of the drawing.
        unit: of the axis.
        points: at least one; each has a row, in their order.
        limits: as for `quality`.
    """
    bottom = _TOP + _ROW * len(points)
    bounds = [bound for point in points for bound in (point.lower, point.upper)]
    x = fitted([*bounds, *limits], _LEFT, _RIGHT)
    content = [
        bottom_axis(x, top=_TOP, bottom=bottom, title=unit),
        *(_limit(x(limit), limit, bottom) for limit in limits),
        *(_row(point, x, _TOP + _ROW * row) for row, point in enumerate(points)),
    ]
    told = " and ".join(plain(limit) for limit in limits)
    limit = f"The dashed line is the gate's limit, {told}." if limits else "There is no gate."
    return figure(
        key, title=title, about=f"A row for each of {len(points)} candidates. {limit}", height=bottom + _FOOT,
        content=content,
    )  # fmt: skip


def _limit(at: float, limit: float, bottom: float) -> Markup:
    """The limit of a gate, with its value above it, inside the drawing."""
    middle = (_LEFT + _RIGHT) / 2
    anchor = "start" if at < middle / 2 else "end" if at > middle * 3 / 2 else "middle"
    return join(
        line(at, _TOP, at, bottom, "limit"),
        text(f"gate: {plain(limit)}", at, _TOP - 6, anchor=anchor, css="limit-text"),
    )


def _row(point: Point, x: Scale, top: float) -> Markup:
    """A candidate's name, and its interval below that."""
    middle = top + _ROW - 10
    low, high = x(point.lower), x(point.upper)
    css = f"bar {point.style.css}"
    return join(
        text(f"{point.number} {point.name}", _LEFT, top + TEXT, css="name"),
        line(low, middle, high, middle, css),
        line(low, middle - _CAP, low, middle + _CAP, css),
        line(high, middle - _CAP, high, middle + _CAP, css),
        mark(point.style, x(point.value), middle, size=_RADIUS, tip=f"{point.name}: {plain(point.value)}"),
    )
