"""A Job of somebody else that has the name of ours: seen by its name alone, for it has none of our labels."""

from apilevel import operators, setup

from saffron_dev.controlplane import ControlPlane
from saffron_operator.client import Cluster
from saffron_operator.resources import JOBS


async def test_a_job_of_somebody_else_with_the_name_of_ours_is_left_alone(
    installed: ControlPlane, admin: Cluster, granted: Cluster
) -> None:
    usual, taken = setup.create_namespaces(installed, 2)
    await operators.reconciler(granted)(await setup.begin(admin, usual))
    (ours,) = await admin.list_all(JOBS, usual)
    name = ours["metadata"]["name"]
    foreign = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": taken},
        # As it was before the API server added a selector and its labels.
        "spec": {"template": {"spec": ours["spec"]["template"]["spec"]}},
    }
    made = await setup.create(admin, JOBS, foreign)
    key = await setup.begin(admin, taken)
    await operators.reconciler(granted)(key)
    await operators.reconciler(granted)(key)
    stalled = setup.condition(await setup.status(admin, key), "Stalled")
    assert stalled is not None
    assert (stalled[1], stalled[2].split(". To try again", 1)[0]) == (
        "NameTaken",
        (
            f"The Job {name} exists and is not the one for this work (another owner, or another saffron.dev/key); "
            "delete or rename it"
        ),
    )
    assert [each["metadata"]["uid"] for each in await admin.list_all(JOBS, taken)] == [made["metadata"]["uid"]]
