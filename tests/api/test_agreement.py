"""The API server and the command line agree on every request, not only on those that somebody thought of.

Each field of a request that has nearly all of them is replaced by each of a pool of values, most of them wrong in most
places, and both sides must say the same: taken or refused.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from saffron_api.generate import REPOSITORY

GONE = object()
POOL = (
    GONE,
    "",
    "x",
    "X y",
    0,
    -1,
    1,
    64,
    1.5,
    10**9,
    2**63 - 1,
    True,
    [],
    {},
    [1],
    {"a": "b"},
    "a" * 400,
    "pvc://a/b",
    "1h",
)
"""Left out on purpose, because the server is milder before it checks: null, which it drops, and 1.0, which it takes
for 1."""


def example(name: str) -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "examples" / name).read_text(encoding="utf-8"))


def nearly_everything() -> dict[str, Any]:
    """A good request with nearly every field."""
    request, canary = example("gpu-jobs.yaml"), example("canary.yaml")
    request["spec"]["rollout"] = canary["spec"]["rollout"]
    request["spec"]["data"] |= {"maxTokens": 512, "redact": ["ip"]}
    request["spec"]["gates"] |= canary["spec"]["gates"]
    request["spec"]["evaluation"] = request["spec"]["calibration"] = {"samples": 64}
    request["spec"]["suspend"] = False
    return request


def paths(value: Any, at: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    yield at
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in below:
        yield from paths(entry, (*at, key))


def replaced(request: dict[str, Any], at: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    other = copy.deepcopy(request)
    place: Any = other
    for part in at[:-1]:
        place = place[part]
    if value is GONE:
        del place[at[-1]]
    else:
        place[at[-1]] = value
    return other


def test_both_sides_take_and_refuse_the_same(
    refused_by_server: Callable[[dict[str, Any]], list[str]],
    refused_by_command_line: Callable[[dict[str, Any]], list[str]],
) -> None:
    request = nearly_everything()
    assert (refused_by_server(request), refused_by_command_line(request)) == ([], [])
    taken, refused, differ = 0, 0, []
    for at in paths(request["spec"], ("spec",)):
        for value in POOL:
            other = replaced(request, at, value)
            by_server, by_command_line = refused_by_server(other), refused_by_command_line(other)
            taken, refused = taken + (not by_server), refused + bool(by_server)
            if bool(by_server) != bool(by_command_line):
                differ.append((at, value, by_server, by_command_line))
    assert differ == []
    # Enough of both that the agreement means something.
    assert (taken > 100, refused > 1000) == (True, True)
