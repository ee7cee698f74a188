"""A QuantizedModel that is deleted and made again at once, as by `kubectl replace --force`."""

import time

from apilevel import setup
from apilevel.kubelet import Kubelet, Run

from saffron_api.results import Stage
from saffron_operator.client import Cluster
from saffron_operator.errors import ConflictError
from saffron_operator.reconcile import Reconciler
from saffron_operator.resources import JOBS, QUANTIZED_MODELS


async def test_what_is_left_of_the_one_before_is_waited_for_and_not_complained_of(
    served: str, admin: Cluster, kubelet: Kubelet, operator: Reconciler
) -> None:
    kubelet.scripts[served] = {(Stage.INSPECT.value, ""): Run()}
    key = await setup.begin(admin, served)
    await operator(key)
    before = await admin.get(QUANTIZED_MODELS, served, "model") or {}
    await admin.delete(QUANTIZED_MODELS, served, "model", uid=before["metadata"]["uid"])
    after = await setup.create(admin, QUANTIZED_MODELS, setup.quantized_model(served))
    told = set()
    deadline = time.monotonic() + 60
    owners: set[str] = set()
    while owners != {after["metadata"]["uid"]}:
        assert time.monotonic() < deadline, (owners, told)
        try:
            await operator(key)
        except ConflictError:
            continue
        told.add(setup.ready(await setup.status(admin, key)))
        owners = {each["metadata"]["ownerReferences"][0]["uid"] for each in await admin.list_all(JOBS, served)}
    assert told == {("False", "Inspecting")}
