"""Namespaces that can't be read: the others are served, and the operator starts anew when one can be."""

import asyncio
import uuid

import pytest
from apilevel import operators, setup

from saffron_dev.controlplane import ControlPlane
from saffron_operator import access
from saffron_operator.client import Cluster
from saffron_operator.errors import RestartError
from saffron_operator.watches import SERVER_TIMEOUT_SECONDS


async def test_a_namespace_that_is_gone_keeps_nobody_else_waiting(
    installed: ControlPlane, served: str, admin: Cluster
) -> None:
    async with operators.process(installed, "gone", served) as operator:
        await operator.logged("Can't list quantizedmodels in namespace gone")
        await operator.logged("msg=leading")
        await setup.begin(admin, served)
        await operator.logged("CreateJob model-inspect")
        await asyncio.sleep(2)  # the other watches begin
        assert await operator.get("health", "/readyz") == (200, "ok\n")
        assert "/namespaces/gone/" not in (await operator.get("metrics", "/metrics"))[1]


async def test_a_namespace_that_is_taken_away_makes_it_start_anew(installed: ControlPlane) -> None:
    kept, left = setup.create_namespaces(installed, 2)
    async with operators.process(installed, kept, left) as operator:
        await operator.logged("msg=leading")
        await operator.ready()
        setup.kubectl(installed, "--namespace", left, "delete", "rolebinding", setup.OPERATOR)
        # Each watch that is open goes on until the server ends it.
        await operator.logged("the next start serves the rest", SERVER_TIMEOUT_SECONDS + 40)
        assert await operator.ended() == 1
        assert [line for line in operator.log if "refuses to watch" in line and kept in line] == []


async def test_a_namespace_that_opts_in_later_makes_it_start_anew(installed: ControlPlane, granted: Cluster) -> None:
    late = f"late-{uuid.uuid4().hex[:8]}"
    waiting = asyncio.create_task(access.wait_for_one(granted, ("gone", late), pytest.fail, seconds=0.2))
    await asyncio.sleep(1)
    assert not waiting.done()
    setup.kubectl(installed, "create", "namespace", late)
    setup.opt_in(installed, [late])
    with pytest.raises(RestartError, match=f"The namespace {late} can be read by now"):
        await asyncio.wait_for(waiting, 20)
