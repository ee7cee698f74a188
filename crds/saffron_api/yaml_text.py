"""Plain objects as YAML text.

The one part of YAML that we write: block maps and lists, and every string that could be read as something else in
JSON's quotes. With it the package needs no YAML library.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

# Starts with a letter, so it is no number, and has nothing that YAML reads as syntax.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_WORDS_WITH_A_MEANING = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def to_yaml(value: dict[str, Any]) -> str:
    """The YAML text of an object made of dict, list, str, int, float, bool and None."""
    return "\n".join(_lines(value)) + "\n"


def _lines(value: dict[str, Any] | list[Any]) -> Iterator[str]:
    """The lines of a map or list that is not empty, without indentation."""
    entries = value.items() if isinstance(value, dict) else (("-", entry) for entry in value)
    for key, entry in entries:
        lead = "-" if isinstance(value, list) else f"{_scalar(key)}:"
        if not isinstance(entry, dict | list) or not entry:
            yield f"{lead} {_scalar(entry)}"
            continue
        nested = _lines(entry)
        if isinstance(value, list):
            yield f"- {next(nested)}"
        else:
            yield lead
        # A list may stand at the depth of its key, and then reads as Kubernetes' own YAML does.
        indent = "" if isinstance(value, dict) and isinstance(entry, list) else "  "
        yield from (indent + line for line in nested)


def _scalar(value: Any) -> str:  # noqa: ANN401  (any scalar)
    plain = isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS_WITH_A_MEANING
    return value if plain else json.dumps(value, ensure_ascii=False)
