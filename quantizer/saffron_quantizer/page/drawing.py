"""What all drawings share: a frame with a title and a description, axes, and a mark for each scheme."""

from collections.abc import Sequence
from dataclasses import dataclass

from saffron_api.candidate import Scheme
from saffron_quantizer.page.markup import Markup, element, join
from saffron_quantizer.page.scale import Scale
from saffron_quantizer.readable import plain

WIDTH = 360.0
"""Of every drawing, in units of its own: about a phone's, so that text is as large there as it is meant to be."""

TEXT = 12.0
_TICK = 4.0
_SHAPES = ("circle", "square", "diamond", "triangle", "hexagon", "pentagon")
_POINTS = {
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    "triangle": ((0, -1.5), (1.5, 1.0), (-1.5, 1.0)),
    "hexagon": ((-0.6, -1), (0.6, -1), (1.15, 0), (0.6, 1), (-0.6, 1), (-1.15, 0)),
    "pentagon": ((0, -1.15), (1.15, -0.3), (0.7, 1), (-0.7, 1), (-1.15, -0.3)),
}


@dataclass(frozen=True)
class Style:
    """How a series looks, told by form as well as by colour.

    Attributes:
        css: class that colours it.
        shape: of its marks.
    """

    css: str
    shape: str


def style_of(scheme: Scheme) -> Style:
    """The style of a scheme, the same on every drawing and every page."""
    return style_of_number(list(Scheme).index(scheme))


def style_of_number(number: int) -> Style:
    """The style of one of several series; colours and shapes begin again after six."""
    place = number % len(_SHAPES)
    return Style(f"s{place}", _SHAPES[place])


def figure(key: str, *, title: str, about: str, height: float, content: Sequence[Markup | None]) -> Markup:
    """A drawing with its title above it, and what it shows in words for those who can't see it.

    Args:
        key: unique on the page.
        title: above it.
        about: what there is to see.
        height: in its own units.
        content: what is drawn.
    """
    drawing = element(
        "svg",
        element("desc", about, id=f"{key}-about"),
        *content,
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_labelledby=f"{key}-title",
        aria_describedby=f"{key}-about",
    )
    return element("figure", element("figcaption", title, id=f"{key}-title"), drawing)


def mark(style: Style, x: float, y: float, *, size: float, label: str = "", tip: str = "") -> Markup:
    """A point, with a number in it and a tip for a mouse where they are given."""
    if style.shape == "circle":
        form = element("circle", cx=x, cy=y, r=size)
    else:
        corners = " ".join(f"{x + size * dx:.2f},{y + size * dy:.2f}" for dx, dy in _POINTS[style.shape])
        form = element("polygon", points=corners)
    # A triangle has its room further down.
    below = 5.0 if style.shape == "triangle" else 3.5
    number = element("text", label, x=x, y=y + below, class_="number") if label else None
    return element("g", element("title", tip) if tip else None, form, number, class_=f"mark {style.css}")


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=css)


def text(words: str, x: float, y: float, *, anchor: str = "start", css: str | None = None) -> Markup:
    """Words at a place."""
    return element("text", words, x=x, y=y, text_anchor=anchor, class_=css)


def left_axis(scale: Scale, *, left: float, right: float, counts: bool = False) -> Markup:
    """Marks of a vertical scale: a number at the left and a faint line across; of counts at whole numbers alone."""
    return join(
        *(
            join(
                line(left, scale(value), right, scale(value), "grid"),
                text(plain(value), left - _TICK - 2, scale(value) + TEXT / 3, anchor="end", css="tick"),
            )
            for value in scale.ticks
            if value.is_integer() or not counts
        )
    )


def bottom_axis(scale: Scale, *, top: float, bottom: float, title: str) -> Markup:
    """Marks of a horizontal scale: a number below and a faint line up, and the axis' title below them."""
    marks = (
        join(
            line(scale(value), top, scale(value), bottom, "grid"),
            text(plain(value), scale(value), bottom + TEXT + 2, anchor="middle", css="tick"),
        )
        for value in scale.ticks
    )
    words = text(title, (scale.start + scale.end) / 2, bottom + 2.5 * TEXT + 3, anchor="middle", css="axis")
    return join(*marks, words)


def legend(entries: Sequence[tuple[str, Style]]) -> Markup:
    """What each mark stands for, as a list below a drawing."""
    items = (
        element(
            "li",
            element("svg", mark(style, 8, 8, size=5), viewBox="0 0 16 16", class_="key", aria_hidden="true"),
            label,
        )
        for label, style in entries
    )
    return element("ul", *items, class_="legend")
