"""What kept a QuantizedModel from its target and goes: noticed by the event of it, not by the next look round."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from apilevel import operators, setup

from saffron_dev.controlplane import ControlPlane
from saffron_operator.client import Cluster
from saffron_operator.queue import Key
from saffron_operator.resources import DEPLOYMENTS, QUANTIZED_MODELS, Resource

SECONDS = 30
"""Enough for a slow machine, and a tenth of what passes between two looks round."""


async def until_reason(admin: Cluster, key: Key, holds: Callable[[str], bool]) -> str:
    deadline = time.monotonic() + SECONDS
    while True:
        ready = setup.condition(await setup.status(admin, key), "Ready")
        if ready is not None and holds(ready[1]):
            return ready[1]
        assert time.monotonic() < deadline, f"not within {SECONDS} s: {ready}"
        await asyncio.sleep(0.2)


def remove(admin: Cluster, namespace: str) -> Callable[[Resource, str], Awaitable[None]]:
    async def by_name(resource: Resource, name: str) -> None:
        found = await admin.get(resource, namespace, name)
        assert found is not None
        await admin.delete(resource, namespace, name, uid=found["metadata"]["uid"])

    return by_name


ANOTHER = {"spec": {"rollout": {"targetRef": {"name": "another"}}}}


@pytest.mark.parametrize("change", [None, ANOTHER], ids=["the older one is deleted", "it names another target"])
async def test_what_waits_for_a_claim_or_a_name_goes_on_when_it_is_free(
    installed: ControlPlane, served: str, admin: Cluster, change: Mapping[str, Any] | None
) -> None:
    async with operators.process(installed, served) as operator:
        await operator.logged("leading")
        await setup.create(admin, QUANTIZED_MODELS, setup.quantized_model(served, name="older", suspend=True))
        await setup.create(admin, DEPLOYMENTS, setup.server(served, name="server-saffron"))
        await asyncio.sleep(1.1)  # a creation time has whole seconds
        key = await setup.begin(admin, served)
        await until_reason(admin, key, lambda reason: reason == "TargetClaimed")
        remove_one = remove(admin, served)
        if change is None:
            await remove_one(QUANTIZED_MODELS, "older")
        else:
            await setup.edit(admin, QUANTIZED_MODELS, served, "older", change)
        await until_reason(admin, key, lambda reason: reason == "NameTaken")
        await remove_one(DEPLOYMENTS, "server-saffron")
        await until_reason(admin, key, lambda reason: reason == "Inspecting")
