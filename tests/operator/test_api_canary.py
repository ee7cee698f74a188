"""The canary follows its target, on a real API server: what the target's template loses, the canary loses, too."""

from collections.abc import Mapping
from typing import Any

from apilevel import setup

from saffron_operator import target as targets
from saffron_operator.act import act
from saffron_operator.client import Cluster, Object
from saffron_operator.decision import ApplyCanary, Decision
from saffron_operator.manifests.canary import build
from saffron_operator.manifests.overlay import Checkpoint
from saffron_operator.names import CANARY_LABEL, CHECKPOINT_ANNOTATION, CHECKPOINT_VOLUME, canary_name
from saffron_operator.observed import ResourceMeta, TargetFacts
from saffron_operator.reading import meta
from saffron_operator.resources import DEPLOYMENTS, QUANTIZED_MODELS

CHECKPOINT = Checkpoint("run", "good-int4", "0" * 64, "checkpoints", "saffron")


def canary_of(resource: ResourceMeta, facts: TargetFacts, uid: str | None) -> Decision:
    manifest = build(
        resource,
        facts,
        CHECKPOINT,
        target="server",
        container="server",
        replicas=1,
        progress_deadline_seconds=600,
        uid=uid,
    )
    return Decision(status=None, actions=(ApplyCanary(canary_name("server"), manifest, exists=uid is not None),))


def facts_of(target: Object) -> TargetFacts:
    found = targets.read(target, container="server", model_uri="pvc://models/original")
    assert isinstance(found, TargetFacts)
    return found


def without_ours(template: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a canary's pod template without what makes it a canary."""
    metadata = template["metadata"]
    assert metadata["labels"].pop(CANARY_LABEL) == "server"
    assert CHECKPOINT_ANNOTATION in metadata.pop("annotations")
    assert template["spec"]["volumes"].pop()["name"] == CHECKPOINT_VOLUME
    (container,) = (each for each in template["spec"]["containers"] if each["name"] == "server")
    assert container["volumeMounts"].pop()["name"] == CHECKPOINT_VOLUME
    return template


async def test_what_its_target_loses_a_canary_loses_too(served: str, admin: Cluster, granted: Cluster) -> None:
    plain, rich = setup.server(served), setup.server(served)
    node = {"name": "NODE", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}}
    plain["spec"]["template"]["spec"]["containers"][0]["env"] = [node]
    pod = rich["spec"]["template"]["spec"]
    rich["spec"]["template"]["metadata"]["labels"] = {"app": "server", "team": "search"}
    pod["containers"][0]["env"] = [{"name": "VLLM_USE_V1", "value": "0"}, {"name": "NODE", "value": "unknown"}]
    pod["containers"].append({"name": "sidecar", "image": "localhost/sidecar:1"})
    pod["volumes"].append({"name": "scratch", "emptyDir": {}})
    pod["nodeSelector"] = {"disk": "ssd"}
    created = await setup.create(admin, DEPLOYMENTS, rich)
    resource = meta(await setup.create(admin, QUANTIZED_MODELS, setup.quantized_model(served)))
    await act(granted, resource, None, canary_of(resource, facts_of(created), None), instance="test")
    canary = await admin.get(DEPLOYMENTS, served, "server-saffron")
    assert canary is not None

    await admin.replace(DEPLOYMENTS, served, "server", plain)
    edited = await admin.get(DEPLOYMENTS, served, "server")
    assert edited is not None
    uid = canary["metadata"]["uid"]
    await act(granted, resource, None, canary_of(resource, facts_of(edited), uid), instance="test")
    canary = await admin.get(DEPLOYMENTS, served, "server-saffron")
    assert canary is not None
    assert canary["metadata"]["uid"] == uid
    assert without_ours(canary["spec"]["template"]) == edited["spec"]["template"]
