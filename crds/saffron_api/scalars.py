"""The small values that the API types are made of: names, paths, durations, quantities, digests.

Every one is bounded, since the API server budgets its rules by the largest value that fits, and says in words what is
allowed, since a regular expression is no help to the person who is refused.
"""

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import PlainValidator, StringConstraints, WithJsonSchema

from saffron_api.model import Rule

_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_PATH = rf"{_SEGMENT}(/{_SEGMENT})*"
_PATH_WORDS = (
    "letters a to z and A to Z, digits, '.', '_', '-' and '/', with no segment that is empty or starts with a dot"
)
_LABEL = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_SUBDOMAIN = r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?"


def matches(pattern: str, message: str) -> Rule:
    """The rule that a string matches a pattern from end to end, in a syntax that RE2 and Python share."""
    compiled = re.compile(pattern)
    return Rule(
        cel=f"self.matches(r'^({pattern})$')",
        message=message,
        holds=lambda text: compiled.fullmatch(text) is not None,
    )


RelativePath = Annotated[
    str,
    StringConstraints(min_length=1, max_length=256),
    matches(_PATH, f"must be a relative path such as a/b: {_PATH_WORDS}"),
]
ClaimUri = Annotated[
    str,
    StringConstraints(max_length=320),
    matches(
        rf"pvc://[a-z0-9]([a-z0-9.-]{{0,61}}[a-z0-9])?/{_PATH}",
        "must be pvc://CLAIM/PATH: a claim in this namespace, of at most 63 lower-case letters, digits, '-' and '.', "
        f"and a path in it, of {_PATH_WORDS}",
    ),
]
DnsLabel = Annotated[
    str,
    StringConstraints(max_length=63),
    matches(_LABEL, "must be lower-case letters, digits and '-', with a letter or digit at both ends"),
]
DnsSubdomain = Annotated[
    str,
    StringConstraints(max_length=63),
    matches(_SUBDOMAIN, "must be lower-case letters, digits, '-' and '.', with a letter or digit at both ends"),
]
ClaimName = DnsSubdomain
CandidateName = Annotated[
    str,
    StringConstraints(max_length=14),
    matches(_LABEL, "must be at most 14 lower-case letters, digits and '-', with a letter or digit at both ends"),
]
RunId = Annotated[
    str,
    StringConstraints(max_length=63),
    matches(r"[A-Za-z0-9._-]*", "must be letters, digits, '.', '_' and '-', or empty"),
]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", min_length=64, max_length=64)]
"""SHA-256 in lower-case hex. Saffron writes it, so no person needs a sentence about it."""

_DURATION = r"([0-9]{1,6}(s|m|h))+"
_SECONDS = {"s": 1, "m": 60, "h": 3600}
MAX_PAUSE = timedelta(hours=168)


def duration(text: str) -> timedelta:
    """The time that a duration such as "1h30m" names.

    Raises:
        ValueError: it is not a duration.
    """
    if re.fullmatch(_DURATION, text) is None:
        raise ValueError(f"{text!r} is not a duration such as 30s, 10m or 1h30m")
    return timedelta(seconds=sum(int(n) * _SECONDS[unit] for n, unit in re.findall(r"([0-9]+)([smh])", text)))


def _is_pause(text: str) -> bool:
    return re.fullmatch(_DURATION, text) is not None and timedelta(seconds=1) <= duration(text) <= MAX_PAUSE


# Six digits a number keep CEL's duration() far from the overflow that would hide the message.
Duration = Annotated[
    str,
    StringConstraints(max_length=16),
    Rule(
        cel=f"self.matches(r'^{_DURATION}$') && duration(self) >= duration('1s') && duration(self) <= duration('168h')",
        message="must be a duration such as 30s, 10m or 1h30m, from 1s to 168h",
        holds=_is_pause,
    ),
]


def is_zero(amount: int | str) -> bool:
    """Whether an amount of a resource is none at all."""
    return re.search("[1-9]", str(amount)) is None


_QUANTITY = r"[0-9]+([.][0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?"
_QUANTITY_LENGTH = 32
_QUANTITY_RULE = Rule(
    cel=f"type(self) == int ? self >= 0 : self.matches(r'^{_QUANTITY}$')",
    message="must be a Kubernetes quantity such as 2, 500m or 16Gi",
    holds=lambda value: (
        value >= 0
        if isinstance(value, int)
        else len(value) <= _QUANTITY_LENGTH and re.fullmatch(_QUANTITY, value) is not None
    ),
)


def _quantity(value: Any) -> int | str:  # noqa: ANN401  (it is what arrives from outside, before any check)
    if isinstance(value, bool) or not isinstance(value, int | str) or _QUANTITY_RULE.is_broken_by(value):
        raise _QUANTITY_RULE.as_error()
    return value


Quantity = Annotated[
    int | str,
    PlainValidator(_quantity),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "maxLength": _QUANTITY_LENGTH,
            "x-kubernetes-validations": [_QUANTITY_RULE.as_validation()],
        }
    ),
]
"""An amount of a resource, as a number or as text with a unit."""
