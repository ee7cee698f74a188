"""Another field manager on what Saffron sets: told in words, where the API server would only refuse."""

from collections.abc import Mapping
from typing import Any

import pytest
from apilevel import operators, setup
from apilevel.kubelet import checkpoint_digest

from saffron_operator.client import Cluster, Object
from saffron_operator.names import overlay_manager
from saffron_operator.reconcile import Reconciler
from saffron_operator.resources import DEPLOYMENTS, QUANTIZED_MODELS

FIELDS = {
    "annotations[saffron.dev/checkpoint]": ".spec.template.metadata.annotations.saffron.dev/checkpoint",
    "containers[server].volumeMounts[/models/original]": (
        '.spec.template.spec.containers[name="server"].volumeMounts[mountPath="/models/original"].subPath'
    ),
}
"""What differs from one checkpoint to the next: as we name it, and as the API server does."""


def is_promoted(status: Mapping[str, Any]) -> bool:
    """Whether the target serves what is selected."""
    return setup.ready(status) == ("True", "Promoted")


def overlaid(served: Object, digest: str) -> dict[str, Any]:
    """Return the overlay as it stands on a target, with another checkpoint in its place."""
    template = served["spec"]["template"]
    (container,) = template["spec"]["containers"]
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == "saffron-checkpoint")
    (volume,) = (each for each in template["spec"]["volumes"] if each["name"] == "saffron-checkpoint")
    annotation = template["metadata"]["annotations"]["saffron.dev/checkpoint"]
    old = mount["subPath"].rpartition("/")[2]
    return deployment(
        served,
        {
            "metadata": {"annotations": {"saffron.dev/checkpoint": annotation.replace(old, digest)}},
            "spec": {
                "volumes": [volume],
                "containers": [
                    {"name": "server", "volumeMounts": [mount | {"subPath": mount["subPath"].replace(old, digest)}]}
                ],
            },
        },
    )


def deployment(served: Object, template: dict[str, Any] | None) -> dict[str, Any]:
    metadata = {name: served["metadata"][name] for name in ("name", "namespace")}
    manifest = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
    return manifest if template is None else manifest | {"spec": {"template": template}}


@pytest.mark.usefixtures("kubelet")
async def test_a_manifest_copied_from_the_target_is_a_conflict_until_it_is_taken_back(
    served: str, admin: Cluster, operator: Reconciler
) -> None:
    key = await setup.begin(admin, served)
    await operators.drive(operator, key, is_promoted, admin=admin)
    target = await admin.get(DEPLOYMENTS, served, "server")
    assert target is not None

    async def as_argocd(template: dict[str, Any]) -> None:
        await admin.apply(DEPLOYMENTS, served, "server", template, manager="argocd", force=False)

    await as_argocd(overlaid(target, checkpoint_digest("good-int4")))
    candidates = [{"name": "next-int4", "method": "GPTQ", "scheme": "W4A16", "groupSize": 64}]
    await setup.edit(admin, QUANTIZED_MODELS, served, key.name, {"spec": {"candidates": candidates}})
    stalled = await operators.drive(
        operator, key, lambda status: setup.condition(status, "Stalled") is not None, admin=admin
    )
    told = setup.condition(stalled, "Stalled")
    assert told is not None
    assert told[1] == "TargetConflict"

    # What we tell is what the API server would have refused.
    (resource,) = await admin.list_all(QUANTIZED_MODELS, served)
    manager = overlay_manager(resource["metadata"]["uid"])
    body = overlaid(target, checkpoint_digest("next-int4"))
    refusal = await setup.refused(admin.apply(DEPLOYMENTS, served, "server", body, manager=manager, force=False))
    assert 'conflicts with "argocd"' in refusal
    for ours, theirs in FIELDS.items():
        assert f"{ours} (argocd)" in told[2]
        assert theirs in refusal

    await as_argocd(deployment(target, None))
    await operators.drive(
        operator,
        key,
        lambda status: is_promoted(status) and status["selected"]["name"] == "next-int4",
        admin=admin,
    )
