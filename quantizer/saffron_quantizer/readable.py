"""Numbers as people read them."""

_UNIT = 1000
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size(number: int) -> str:
    """Bytes with a unit of powers of 1000, as "536.2 MB"."""
    value = float(number)
    for unit in _UNITS:
        if value < _UNIT or unit == _UNITS[-1]:
            break
        value /= _UNIT
    return f"{number} B" if unit == "B" else f"{value:.1f} {unit}"


def plain(value: float) -> str:
    """A number with four digits that count, and no more zeros than it needs, as "1.057" or "0.01"."""
    return f"{value:.4g}"


def measured(value: float) -> str:
    """A measured number with four digits that count, zeros too, so that a column of them reads well, as "1.190"."""
    return f"{value:#.4g}".removesuffix(".")


def rough(value: float) -> str:
    """A number of which only the size matters, with two digits, as "0.017"."""
    return f"{value:.2g}"
