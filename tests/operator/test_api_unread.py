"""Rights to read that the operator lacks in a namespace are told to the authors there, as far as it can."""

import asyncio
import time
from collections.abc import Mapping

import pytest
import yaml
from apilevel import operators, setup

from saffron_dev.controlplane import ControlPlane
from saffron_operator.client import Cluster
from saffron_operator.errors import RefusedError
from saffron_operator.queue import Key
from saffron_operator.reconcile import Reconciler
from saffron_operator.resources import EVENTS, QUANTIZED_MODELS


def take_away(control_plane: ControlPlane, namespace: str, plural: str) -> None:
    """Give the operator in a namespace all of the chart's rights but those on one kind of objects."""
    rendered = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(setup.render()) if each}
    rules = rendered["ClusterRole", setup.OPERATOR]["rules"]
    metadata = {"name": "less", "namespace": namespace}
    version = "rbac.authorization.k8s.io/v1"
    role = {"apiVersion": version, "kind": "Role", "metadata": metadata}
    binding = {
        "apiVersion": version,
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "less"},
        "subjects": [{"kind": "ServiceAccount", "name": setup.OPERATOR, "namespace": setup.SYSTEM}],
    }
    manifests = [role | {"rules": [each for each in rules if each["resources"] != [plural]]}, binding]
    setup.kubectl(control_plane, "apply", "--filename", "-", text=yaml.safe_dump_all(manifests))
    setup.kubectl(control_plane, "--namespace", namespace, "delete", "rolebinding", setup.OPERATOR)


async def until_told(admin: Cluster, key: Key, words: str) -> Mapping[str, object]:
    deadline = time.monotonic() + 30
    while words not in setup.message(status := await setup.status(admin, key)):
        assert time.monotonic() < deadline, status
        await asyncio.sleep(0.2)
    return status


async def refused_read(operator: Reconciler, key: Key) -> None:
    """Do passes until one is refused: the API server takes note of changed rights a moment later."""
    deadline = time.monotonic() + 30
    while True:
        try:
            await operator(key)
        except RefusedError:
            return
        assert time.monotonic() < deadline, "the API server still shows it"
        await asyncio.sleep(0.2)


async def test_a_right_that_is_taken_away_is_told_until_it_is_back(
    installed: ControlPlane, served: str, admin: Cluster, operator: Reconciler
) -> None:
    key = await setup.begin(admin, served)
    await operator(key)
    before = await setup.status(admin, key)
    take_away(installed, served, "horizontalpodautoscalers")
    await refused_read(operator, key)
    for _ in range(2):
        with pytest.raises(RefusedError):
            await operator(key)
    status = await setup.status(admin, key)
    stalled = setup.condition(status, "Stalled")
    assert stalled is not None
    assert stalled[1] == "Refused"
    assert 'cannot list resource "horizontalpodautoscalers"' in stalled[2]
    assert setup.ready(status) == ("False", "Refused")
    assert {name: status[name] for name in ("run", "candidates")} == {
        name: before[name] for name in ("run", "candidates")
    }
    events = [each for each in await admin.list_all(EVENTS, served) if each["reason"] == "Refused"]
    assert [(each["type"], each["note"]) for each in events] == [("Warning", stalled[2])]

    setup.opt_in(installed, [served])
    status = await operators.drive(
        operator, key, lambda status: setup.ready(status)[1] == "Inspecting", admin=admin, seconds=30
    )
    assert setup.condition(status, "Stalled") is None


@pytest.mark.parametrize("others", [1, 0], ids=["one of two namespaces", "the only one"])
async def test_a_namespace_that_is_left_out_is_told_why(installed: ControlPlane, admin: Cluster, others: int) -> None:
    *kept, left_out = setup.create_namespaces(installed, others + 1)
    take_away(installed, left_out, "pods")
    await setup.create(admin, QUANTIZED_MODELS, setup.quantized_model(left_out))
    async with operators.process(installed, *kept, left_out) as operator:
        await operator.logged("namespace left out" if kept else "msg=ended")
        status = await until_told(admin, Key(left_out, "model"), 'cannot list resource "pods"')
        assert setup.ready(status) == ("False", "Refused")
        if not kept:
            assert await operator.ended() == 1
