"""Results as people read them."""

from dataclasses import dataclass

from saffron_api.failures import ExitCode
from saffron_api.results import StageResult

_UNIT = 1000
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True)
class Outcome:
    """A result, its text, and the exit code."""

    result: StageResult
    text: str
    exit_code: ExitCode = ExitCode.DONE


def size(number: int) -> str:
    """Bytes with a unit of powers of 1000, as "536.2 MB"."""
    value = float(number)
    for unit in _UNITS:
        if value < _UNIT or unit == _UNITS[-1]:
            break
        value /= _UNIT
    return f"{number} B" if unit == "B" else f"{value:.1f} {unit}"


def rows(*pairs: tuple[str, str]) -> str:
    """Names and values, the values in one column."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in pairs)
