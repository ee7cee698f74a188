"""Worlds that many tests start from, and what they look at in the end."""

from collections.abc import Callable
from typing import Any

from deciding import builders
from deciding.world import Outcome, World

from saffron_api.results import Stage
from saffron_operator.decision import (
    ApplyCanary,
    ApplyOverlay,
    DeleteCanary,
    RemoveOverlay,
)

GPTQ = builders.hexadecimal("checkpoint of gptq-int4")
INT8 = builders.hexadecimal("checkpoint of int8")


def script(outcomes: dict[tuple[Stage, str | None], Outcome]) -> Callable[[Stage, str | None, str], Outcome | None]:
    return lambda stage, candidate, _: outcomes.get((stage, candidate))


def without_rollout(**fields: Any) -> World:
    return World(spec=builders.spec(rollout=None), **fields)


def with_steps(*steps: dict[str, Any], **fields: Any) -> World:
    return World(spec=builders.spec(rollout=dict(builders.ROLLOUT) | {"steps": list(steps)}), **fields)


def acts(world: World) -> list[str]:
    """What was done beyond Jobs, in order."""
    kinds = ApplyCanary | DeleteCanary | ApplyOverlay | RemoveOverlay
    return [type(act).__name__ for act in world.acts if isinstance(act, kinds)]


def reasons_of(world: World) -> list[str]:
    """Ready's reasons in their order, each once."""
    all_of_them = [next(each.reason for each in status.conditions if each.type == "Ready") for status in world.written]
    return list(dict.fromkeys(all_of_them))
