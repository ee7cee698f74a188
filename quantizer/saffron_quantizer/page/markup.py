"""HTML and SVG put together so that a text is a text: whatever is not markup already is escaped."""

from html import escape

_VOID = frozenset({"meta", "br", "hr"})


class Markup(str):
    """A text that is markup already."""

    __slots__ = ()


def element(tag: str, *children: str | None, **attributes: str | float | None) -> Markup:
    """An element of HTML or SVG.

    Args:
        tag: its name.
        children: what is in it, in order; a text that is no `Markup` is escaped, and None is nothing.
        attributes: by name, with "_" for "-" and one more "_" at the end of a name that Python keeps for itself, as
            `class_`; None leaves the attribute out. Numbers are rounded to two places, which no eye can tell.
    """
    told = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_written(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{told}>")
    return Markup(f"<{tag}{told}>{join(*children)}</{tag}>")


def join(*children: str | None) -> Markup:
    """Pieces one after the other; a text that is no `Markup` is escaped."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children if child))


def _written(value: str | float) -> str:
    if isinstance(value, str):
        return value
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
