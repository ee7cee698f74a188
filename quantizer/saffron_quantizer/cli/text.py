"""Results as people read them."""

from dataclasses import dataclass

from saffron_api.failures import ExitCode
from saffron_api.results import StageResult


@dataclass(frozen=True)
class Outcome:
    """A result, its text, and the exit code."""

    result: StageResult
    text: str
    exit_code: ExitCode = ExitCode.DONE


def rows(*pairs: tuple[str, str]) -> str:
    """Names and values, the values in one column."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in pairs)
