"""A pod may outlive its Job by a while, and still write: no other Job does its work meanwhile."""

import time

from apilevel import operators, setup
from apilevel.kubelet import Kubelet, Run

from saffron_api.results import Stage
from saffron_operator.client import Cluster
from saffron_operator.reconcile import Reconciler
from saffron_operator.resources import JOBS, PODS


async def hold(admin: Cluster, namespace: str, finalizers: list[str]) -> None:
    """Keep the pods there after their deletion, as a kubelet does until their containers have ended."""
    for pod in await admin.list_all(PODS, namespace, labels="saffron.dev/stage"):
        others = [each for each in pod["metadata"].get("finalizers", ()) if "kubelet" not in each]
        change = {"metadata": {"finalizers": others + finalizers, "uid": pod["metadata"]["uid"]}}
        await setup.edit(admin, PODS, namespace, pod["metadata"]["name"], change)


async def test_a_job_waits_for_the_pods_of_the_one_that_somebody_removed(
    served: str, admin: Cluster, kubelet: Kubelet, operator: Reconciler
) -> None:
    kubelet.scripts[served] = {(Stage.INSPECT.value, ""): Run()}
    key = await setup.begin(admin, served)
    await operators.drive(operator, key, lambda status: setup.message(status) == "inspect runs", admin=admin)
    await hold(admin, served, ["test.saffron.dev/kubelet"])
    (job,) = await admin.list_all(JOBS, served)
    await admin.delete(JOBS, served, job["metadata"]["name"], uid=job["metadata"]["uid"])
    for _ in range(3):
        await operator(key)
        assert await admin.list_all(JOBS, served) == []
    status = await setup.status(admin, key)
    (pod,) = await admin.list_all(PODS, served, labels="saffron.dev/stage")
    assert setup.condition(status, "Ready") == (
        "False",
        "Inspecting",
        f"the pod {pod['metadata']['name']} of an earlier Job for inspect has not ended yet",
    )

    kubelet.scripts[served] = {}
    await hold(admin, served, [])
    deadline = time.monotonic() + 60
    while not await admin.list_all(JOBS, served):
        assert time.monotonic() < deadline
        await operator(key)
    (again,) = await admin.list_all(JOBS, served)
    assert (again["metadata"]["name"], again["metadata"]["uid"] != job["metadata"]["uid"]) == (
        job["metadata"]["name"],
        True,
    )
