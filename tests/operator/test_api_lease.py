"""Leader election on a real API server: one leads, the others wait, and one that is lost is replaced."""

import asyncio
import time
from contextlib import suppress

import pytest

from saffron_dev.controlplane import ControlPlane
from saffron_operator.client import Cluster, load_configuration
from saffron_operator.errors import LeadershipLostError
from saffron_operator.lease import Lease, Timing
from saffron_operator.resources import LEASES

TIMING = Timing(duration=4.0, give_up=2.0, renew=0.4)


def lease(cluster: Cluster, namespace: str, identity: str) -> Lease:
    return Lease(cluster, namespace=namespace, name="saffron-operator", identity=identity, timing=TIMING)


async def lead(one: Lease) -> "asyncio.Task[None]":
    """Acquire, and renew in the background."""
    await asyncio.wait_for(one.acquire(), 10)
    return asyncio.create_task(one.keep())


async def stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_of_two_one_leads_and_the_other_follows_at_once_when_it_is_released(
    admin: Cluster, namespace: str
) -> None:
    first, second = lease(admin, namespace, "first"), lease(admin, namespace, "second")
    keeping = await lead(first)
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(5)  # longer than the Lease is good for without a renewal
    assert (first.held, second.held) == (True, False)
    await stop(keeping)
    await first.release()
    began = time.monotonic()
    await asyncio.wait_for(waiting, 5)
    assert time.monotonic() - began < TIMING.duration / 2
    assert (first.held, second.held) == (False, True)


async def test_a_leader_that_vanished_is_replaced_after_the_duration_and_may_not_write_by_then(
    admin: Cluster, namespace: str
) -> None:
    first, second = lease(admin, namespace, "first"), lease(admin, namespace, "second")
    await stop(await lead(first))  # it stops renewing without a word
    began = time.monotonic()
    await asyncio.wait_for(second.acquire(), 10)
    assert TIMING.duration - 1 < time.monotonic() - began < TIMING.duration + 3
    with pytest.raises(LeadershipLostError, match="first does not hold the Lease"):
        first.require()


async def test_a_leader_that_finds_another_in_its_place_ends(admin: Cluster, namespace: str) -> None:
    first = lease(admin, namespace, "first")
    keeping = await lead(first)
    found = await admin.get(LEASES, namespace, "saffron-operator")
    assert found is not None
    stolen = {**found, "spec": {**found["spec"], "holderIdentity": "thief"}}
    await admin.replace(LEASES, namespace, "saffron-operator", stolen)
    with pytest.raises(LeadershipLostError):
        await asyncio.wait_for(keeping, 5)


async def test_of_many_that_begin_at_once_exactly_one_leads(admin: Cluster, namespace: str) -> None:
    leases = [lease(admin, namespace, f"replica-{number}") for number in range(5)]
    tasks = [asyncio.create_task(each.acquire()) for each in leases]
    done, _ = await asyncio.wait(tasks, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(1)
    assert (len(done), sum(each.held for each in leases)) == (1, 1)
    for task in tasks:
        await stop(task)


async def test_nothing_is_written_without_the_lease(installed: ControlPlane, admin: Cluster, namespace: str) -> None:
    first = lease(admin, namespace, "first")
    configuration = await load_configuration(str(installed.kubeconfig))
    async with Cluster(configuration, before_write=first.require) as fenced:
        with pytest.raises(LeadershipLostError):
            await fenced.create(LEASES, namespace, {}, manager="saffron.dev")
        keeping = await lead(first)
        made = {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": {"name": "another"}}
        await fenced.create(LEASES, namespace, made, manager="saffron.dev")
        await stop(keeping)
        await asyncio.sleep(TIMING.give_up)
        with pytest.raises(LeadershipLostError):
            await fenced.delete(LEASES, namespace, "another", uid="")
