"""Tables of the page: everything that is drawn stands in one, too."""

from collections.abc import Sequence
from dataclasses import dataclass

from saffron_api.quantized_model import Verdict
from saffron_quantizer.page.markup import Markup, element

_CSS = {Verdict.PASS: "pass", Verdict.FAIL: "fail", Verdict.INCONCLUSIVE: "unsure", Verdict.ERROR: "fail"}
_SIGN = {Verdict.PASS: "✓", Verdict.FAIL: "✗", Verdict.INCONCLUSIVE: "?", Verdict.ERROR: "!"}


NOTHING = "-"
"""Stands where there is nothing to say."""


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        title: its first cell.
        cells: the others, in the order of the columns.
        about: small words below the title.
        chosen: it is what was selected.
    """

    title: str
    cells: Sequence[str]
    about: str = ""
    chosen: bool = False


def table(caption: str, columns: Sequence[str], rows: Sequence[Row]) -> Markup:
    """A table that scrolls by itself where the screen is narrow; the first column names the rows."""
    head = element("thead", element("tr", *(element("th", name, scope="col") for name in columns)))
    body = element("tbody", *map(_row, rows))
    inside = element("table", element("caption", caption), head, body)
    return element("div", inside, class_="wide", tabindex="0", role="region", aria_label=caption)


def _row(row: Row) -> Markup:
    about = element("small", row.about) if row.about else None
    title = element("th", row.title, about, scope="row")
    return element("tr", title, *(element("td", cell) for cell in row.cells), class_="chosen" if row.chosen else None)


def verdict(given: Verdict | None) -> str:
    """A verdict by sign, word and colour."""
    return NOTHING if given is None else element("span", f"{_SIGN[given]} {given}", class_=_CSS[given])


def folded(summary: str, content: Markup) -> Markup:
    """Something long that is shown on a click."""
    return element("details", element("summary", summary), content)


def section(key: str, title: str, *content: str | None) -> Markup:
    """A part of the page under its heading."""
    return element("section", element("h2", title, id=key), *content, aria_labelledby=key)
