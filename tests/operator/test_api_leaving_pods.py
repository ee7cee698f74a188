"""A pod may outlive its Job by a while, and still write: no other Job does its work meanwhile."""

import time

from apilevel import operators, setup
from apilevel.kubelet import Kubelet, Run

from saffron_api.results import Stage
from saffron_dev.controlplane import ControlPlane
from saffron_operator.client import Cluster, load_configuration
from saffron_operator.resources import JOBS, PODS

MERGE_PATCH = "application/merge-patch+json"


async def hold(admin: Cluster, namespace: str, finalizers: list[str]) -> None:
    """Keep the pods there after their deletion, as a kubelet does until their containers have ended."""
    for pod in await admin.list_all(PODS, namespace, labels="saffron.dev/stage"):
        others = [each for each in pod["metadata"].get("finalizers", ()) if "kubelet" not in each]
        body = {"metadata": {"finalizers": others + finalizers, "uid": pod["metadata"]["uid"]}}
        path = PODS.path(namespace, pod["metadata"]["name"])
        await admin.send("PATCH", path, body=body, content_type=MERGE_PATCH)


async def test_a_job_waits_for_the_pods_of_the_one_that_somebody_removed(
    installed: ControlPlane, served: str, admin: Cluster, kubelet: Kubelet
) -> None:
    kubelet.scripts[served] = {(Stage.INSPECT.value, ""): Run()}
    async with Cluster(await load_configuration(str(setup.operator_kubeconfig(installed)))) as cluster:
        operator = operators.reconciler(cluster)
        key = await setup.begin(admin, served)
        message = ""
        deadline = time.monotonic() + 60
        while message != "inspect runs":
            assert time.monotonic() < deadline, message
            await operator(key)
            _, _, message = setup.condition(await setup.status(admin, key), "Ready") or ("", "", "")
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
        while not await admin.list_all(JOBS, served):
            assert time.monotonic() < deadline
            await operator(key)
        (again,) = await admin.list_all(JOBS, served)
        assert (again["metadata"]["name"], again["metadata"]["uid"] != job["metadata"]["uid"]) == (
            job["metadata"]["name"],
            True,
        )
