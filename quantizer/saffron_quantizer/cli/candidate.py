"""The options that say what to make: one for each field of `CandidateSpec`, in its own words."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from saffron_api.candidate import (
    ALLOWED,
    ActOrder,
    CandidateSpec,
    KvCache,
    Method,
    QuantizationFormat,
    ScaleSearch,
    Scheme,
    Smoothing,
    Target,
)
from saffron_quantizer.cli.options import choice, refusals


@dataclass(frozen=True)
class _Option:
    """How the value of a field is read.

    Attributes:
        read: makes a value of a word.
        metavar: what stands for it in the help.
        field: inside the field's object, where it is one.
    """

    read: Callable[[str], Any]
    metavar: str
    field: str | None = None


def _truth(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


_OPTIONS: dict[str, _Option] = {
    "method": _Option(choice(Method), "METHOD"),
    "scheme": _Option(choice(Scheme), "SCHEME"),
    "group_size": _Option(int, "N"),
    "symmetric": _Option(_truth, "BOOL"),
    "format": _Option(choice(QuantizationFormat), "FORMAT"),
    "act_order": _Option(choice(ActOrder), "ORDER"),
    "scale_search": _Option(choice(ScaleSearch), "SEARCH"),
    "target": _Option(choice(Target), "TARGET"),
    "smoothing": _Option(choice(Smoothing), "METHOD"),
    "kv_cache": _Option(choice(KvCache), "TYPE"),
    "ignore": _Option(str, "NAME"),
    "escalate": _Option(float, "SHARE", field="max_bytes_ratio"),
}


def add_candidate(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    makes = "; ".join(f"{method} makes {', '.join(schemes)}" for method, schemes in ALLOWED.items())
    group = parser.add_argument_group("the candidate", description=f"{makes}. Values may be written in any case.")
    for name, option in _OPTIONS.items():
        field = CandidateSpec.model_fields[name]
        group.add_argument(
            _spelled(name, option),
            dest=name,
            type=option.read,
            required=field.is_required(),
            action="append" if isinstance(field.default, list) else "store",
            metavar=option.metavar,
            help=_help(name),
        )


def _spelled(name: str, option: _Option) -> str:
    words = name if option.field is None else f"{name}_{option.field}"
    return f"--{words.replace('_', '-')}"


def _help(name: str) -> str:
    field = CandidateSpec.model_fields[name]
    text = str(field.description).rstrip(".").replace("%", "%%")
    if isinstance(field.default, list):
        return f"{text}; may be given several times (default: none)"
    if field.is_required():
        return text
    # Not "none", which is a value of some of them.
    return f"{text} (default: {'left out' if field.default is None else str(field.default).lower()})"


def candidate_of(arguments: argparse.Namespace) -> CandidateSpec:
    """The candidate that the options say. What does not fit together ends the program with a sentence."""
    given = {name: getattr(arguments, name) for name in _OPTIONS}
    values = {to_camel(name): _value(name, value) for name, value in given.items() if value is not None}
    try:
        return CandidateSpec.model_validate(values)
    except ValidationError as error:
        arguments.refuse(refusals(error))
        raise


def _value(name: str, value: object) -> object:
    inner = _OPTIONS[name].field
    return value if inner is None else {inner: value}
