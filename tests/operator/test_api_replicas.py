"""Two replicas: one leads, the other waits and takes over, whatever way the first one ends."""

import signal
import time
from typing import NamedTuple

import pytest
from apilevel import operators, setup

from saffron_dev.controlplane import ControlPlane
from saffron_operator.client import Cluster
from saffron_operator.resources import LEASES


async def holder(admin: Cluster) -> str:
    lease = await admin.get(LEASES, setup.SYSTEM, setup.OPERATOR)
    assert lease is not None
    name: str = lease["spec"]["holderIdentity"]
    return name


class Ending(NamedTuple):
    """How the leader ends: by which signal, with a Lease of how many seconds, and when the other must lead at last."""

    number: signal.Signals
    lease: float
    slowest: float


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(Ending(signal.SIGTERM, 30, 15), id="told to end, it hands over long before its Lease is over"),
        pytest.param(Ending(signal.SIGKILL, 6, 16), id="killed, it is replaced when its Lease is over"),
    ],
)
@pytest.mark.usefixtures("kubelet")
async def test_the_second_replica_goes_on_where_the_first_one_ended(
    installed: ControlPlane, served: str, admin: Cluster, ending: Ending
) -> None:
    async with (
        operators.process(installed, served, seconds=ending.lease, identity="first") as first,
        operators.process(installed, served, seconds=ending.lease, identity="second") as second,
    ):
        await operators.until(lambda: any("msg=leading" in line for line in first.log + second.log), 30, "a leader")
        leader, other = (first, second) if await holder(admin) == "first" else (second, first)
        await other.logged("waiting for the lease")
        # Both are healthy, and only one writes.
        for each in (leader, other):
            assert await each.get("health", "/healthz") == (200, "ok\n")
            await each.ready()
        key = await setup.begin(admin, served)
        await leader.logged("CreateJob")
        assert not [line for line in other.log if "msg=acting" in line]

        await leader.end(ending.number)
        ended = time.monotonic()
        await other.logged("msg=leading")
        assert time.monotonic() - ended < ending.slowest
        await operators.until_promoted(admin, key)
        assert not [line for line in other.log if "level=error" in line]


async def test_a_leader_whose_lease_was_taken_ends_with_a_sentence(
    installed: ControlPlane, served: str, admin: Cluster
) -> None:
    async with operators.process(installed, served) as operator:
        await operator.logged("msg=leading")
        lease = await admin.get(LEASES, setup.SYSTEM, setup.OPERATOR)
        assert lease is not None
        stolen = {**lease, "spec": {**lease["spec"], "holderIdentity": "thief", "leaseDurationSeconds": 1}}
        await admin.replace(LEASES, setup.SYSTEM, setup.OPERATOR, stolen)
        await operator.logged("does not hold the Lease")
        assert await operator.ended() == 1


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        pytest.param(
            "namespace",
            "Can't list quantizedmodels in namespace default: quantizedmodels.saffron.dev is forbidden",
            id="a namespace that did not opt in",
        ),
        pytest.param("server", "no answer from the API server", id="an API server that is not there"),
    ],
)
async def test_what_it_can_not_work_with_is_said_at_the_start(
    installed: ControlPlane, prepare: str, sentence: str
) -> None:
    kubeconfig = setup.operator_kubeconfig(installed)
    if prepare == "server":
        text = kubeconfig.read_text().replace(installed.server, "https://127.0.0.1:1")
        kubeconfig = kubeconfig.with_name("nowhere.kubeconfig")
        kubeconfig.write_text(text)
    async with operators.process(installed, "default", kubeconfig=kubeconfig) as operator:
        assert await operator.ended() == 1
    assert any(sentence in line for line in operator.log)
