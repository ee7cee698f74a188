"""A figure of every candidate against its bytes: what each saves, and what that costs."""

from collections.abc import Sequence
from dataclasses import dataclass

from saffron_api.results import FigureName
from saffron_quantizer.page.drawing import TEXT, WIDTH, Style, bottom_axis, figure, left_axis, line, mark, text
from saffron_quantizer.page.markup import Markup, element, join
from saffron_quantizer.page.scale import Scale, fitted
from saffron_quantizer.readable import plain

_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 50.0, WIDTH - 12.0, 12.0, 222.0, 262.0
_RADIUS = 8.0
_APART = 2.5 * _RADIUS
"""Between the middles of two marks, of which a triangle is the widest."""
_CAP = 4.0

BEST = {FigureName.PERPLEXITY_RATIO: 1.0, FigureName.KL_DIVERGENCE: 0.0, FigureName.TOP_TOKEN_AGREEMENT: 1.0}
"""What a candidate that answers as its original does would have."""


@dataclass(frozen=True)
class Point:
    """A candidate on the drawing.

    Attributes:
        number: of its row in the tables.
        name: of the candidate.
        style: of its scheme.
        size: its bytes over the original's.
        value: the figure, and its bounds.
        lower: the one below.
        upper: the one above.
    """

    number: int
    name: str
    style: Style
    size: float
    value: float
    lower: float
    upper: float


def quality(key: str, title: str, name: FigureName, points: Sequence[Point], limits: Sequence[float]) -> Markup:
    """The drawing of one figure.

    Args:
        key: unique on the page.
        title: of the drawing.
        name: of the figure.
        points: at least one.
        limits: of its gate; empty where there is none, several where reports were judged by different ones.
    """
    x = fitted([point.size for point in points] + [1.0], _LEFT, _RIGHT)
    bounds = [bound for point in points for bound in (point.lower, point.upper)]
    y = _vertical(name, [*bounds, *limits])
    content: list[Markup | None] = [
        left_axis(y, left=_LEFT, right=_RIGHT),
        bottom_axis(x, top=_TOP, bottom=_BOTTOM, title="bytes, as a share of the original's"),
        *(_limit(y, limit, name) for limit in limits),
        _original(x, y, name),
        *(_point(point, at, y) for point, at in zip(points, _side_by_side(points, x, y), strict=True)),
    ]
    about = "; ".join(
        f"{point.number}, {point.name}: {plain(point.value)} with bounds {plain(point.lower)} and {plain(point.upper)} "
        f"at {plain(point.size)} of the bytes"
        for point in points
    )
    told = f" The limit is {' and '.join(plain(limit) for limit in limits)}." if limits else ""
    return figure(key, title=title, about=f"{about}.{told}", height=_HEIGHT, content=content)


def _vertical(name: FigureName, values: Sequence[float]) -> Scale:
    """The scale of a figure: with its best value at the foot (or head) where that leaves the others room."""
    apart = fitted(values, _BOTTOM, _TOP)
    return apart if apart.logarithmic else fitted([*values, BEST[name]], _BOTTOM, _TOP, logarithmic=False)


def _original(x: Scale, y: Scale, name: FigureName) -> Markup | None:
    """Where the original stands; on a logarithmic scale there is no place for 0."""
    if y.logarithmic:
        return None
    across, down = x(1.0), y(BEST[name])
    words = text("original", across - _RADIUS - 3, down + TEXT / 3, anchor="end", css="tick")
    return join(element("circle", cx=across, cy=down, r=_RADIUS - 2, class_="original"), words)


def _limit(y: Scale, limit: float, name: FigureName) -> Markup:
    at = y(limit)
    side = "least" if name is FigureName.TOP_TOKEN_AGREEMENT else "most"
    words = text(f"gate: {plain(limit)} at {side}", _RIGHT, at - 4, anchor="end", css="limit-text")
    return join(line(_LEFT, at, _RIGHT, at, "limit"), words)


def _point(point: Point, at: tuple[float, float], y: Scale) -> Markup:
    across, _ = at
    low, high = y(point.lower), y(point.upper)
    css = f"bar {point.style.css}"
    tip = f"{point.name}: {plain(point.value)} [{plain(point.lower)}, {plain(point.upper)}]"
    return join(
        line(across, low, across, high, css),
        line(across - _CAP, low, across + _CAP, low, css),
        line(across - _CAP, high, across + _CAP, high, css),
        mark(point.style, across, y(point.value), size=_RADIUS, label=str(point.number), tip=tip),
    )


def _side_by_side(points: Sequence[Point], x: Scale, y: Scale) -> list[tuple[float, float]]:
    """Where each point is drawn: one that would cover another moves beside it."""
    placed: list[tuple[float, float]] = []
    for point in points:
        across, down = x(point.size), y(point.value)
        while any(abs(across - a) < _APART and abs(down - b) < _APART for a, b in placed):
            across += _APART
        # At the right edge there is only the other side.
        placed.append((min(across, _RIGHT + _RADIUS - TEXT / 3), down))
    return placed
