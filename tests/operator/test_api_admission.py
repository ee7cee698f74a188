"""Who may write a QuantizedModel, and what the operator may do, on a real API server under the chart's rules."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from apilevel import setup

from saffron_dev.controlplane import ControlPlane
from saffron_operator.client import Cluster, Object
from saffron_operator.errors import ApiError
from saffron_operator.resources import AUTOSCALERS, DEPLOYMENTS, JOBS, PODS, QUANTIZED_MODELS, Resource

WRITE_QM = {
    "apiGroups": ["saffron.dev"],
    "resources": ["quantizedmodels"],
    "verbs": ["get", "create", "update", "patch"],
}
CREATE_PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}


def patch_deployment(name: str) -> dict[str, Any]:
    return {"apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": [name], "verbs": ["patch"]}


def user(control_plane: ControlPlane, namespace: str, *rules: Object) -> Path:
    """A user of the namespace who may do what the rules say; his name is the namespace's, so that none has two."""
    name = f"jane-{namespace}"
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}
    metadata = {"name": "jane", "namespace": namespace}
    version = "rbac.authorization.k8s.io/v1"
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "jane"}
    role = {"apiVersion": version, "kind": "Role", "metadata": metadata, "rules": list(rules)}
    binding = {"apiVersion": version, "kind": "RoleBinding", "metadata": metadata, "roleRef": ref}
    manifests = yaml.safe_dump_all([role, binding | {"subjects": [subject]}])
    setup.kubectl(control_plane, "apply", "--filename", "-", text=manifests)
    return control_plane.kubeconfig_for(name)


NO_PODS = (
    "jane-{ns} may not create pods in namespace {ns}, which a QuantizedModel does; ask for a role that may, as edit"
)
NO_PATCH = (
    "jane-{ns} may not patch the Deployment server in namespace {ns}, which spec.rollout.targetRef does; ask for a "
    "role that may, as edit"
)
REFUSED = [
    pytest.param(
        [WRITE_QM],
        {},
        NO_PODS,
        id="who may not create pods may not have them created",
    ),
    pytest.param(
        [WRITE_QM, CREATE_PODS],
        {},
        NO_PATCH,
        id="who may not patch the target may not have it changed",
    ),
    pytest.param(
        [WRITE_QM, CREATE_PODS, patch_deployment("another")],
        {},
        NO_PATCH,
        id="the right to patch another Deployment is not enough",
    ),
    pytest.param(
        [WRITE_QM],
        {"rollout": None},
        NO_PODS,
        id="Jobs run without a roll-out, too",
    ),
]


@pytest.mark.parametrize(("rules", "changes", "message"), REFUSED)
async def test_a_weak_user_is_refused_with_what_he_lacks(
    installed: ControlPlane, served: str, rules: list[Object], changes: dict[str, Any], message: str
) -> None:
    async with await setup.connect(user(installed, served, *rules)) as jane:
        said = await setup.refused(setup.create(jane, QUANTIZED_MODELS, setup.quantized_model(served, **changes)))
    assert said.endswith(f"denied request: {message.format(ns=served)}")


ACCEPTED = [
    pytest.param([WRITE_QM, CREATE_PODS, patch_deployment("server")], {}, id="with both rights"),
    pytest.param([WRITE_QM, CREATE_PODS], {"rollout": None}, id="without a roll-out there is no target to patch"),
]


@pytest.mark.parametrize(("rules", "changes"), ACCEPTED)
async def test_a_user_who_could_do_it_himself_is_accepted(
    installed: ControlPlane, served: str, rules: list[Object], changes: dict[str, Any]
) -> None:
    async with await setup.connect(user(installed, served, *rules)) as jane:
        made = await setup.create(jane, QUANTIZED_MODELS, setup.quantized_model(served, **changes))
    assert made["status"] == {"observedGeneration": -1}


async def test_an_annotation_that_promotes_needs_the_same_rights(
    installed: ControlPlane, served: str, admin: Cluster
) -> None:
    await setup.create(admin, QUANTIZED_MODELS, setup.quantized_model(served))
    promote = {"metadata": {"annotations": {"saffron.dev/promote": "1"}}}
    async with await setup.connect(user(installed, served, WRITE_QM)) as jane:
        said = await setup.refused(setup.edit(jane, QUANTIZED_MODELS, served, "model", promote))
    assert "may not create pods" in said


async def test_who_has_the_built_in_role_edit_may_write_and_view_may_read(installed: ControlPlane, served: str) -> None:
    for role in ("edit", "view"):
        name = f"{role}-{served}"
        setup.kubectl(
            installed, "create", "rolebinding", name, f"--clusterrole={role}", f"--user={name}", f"--namespace={served}"
        )
    async with await setup.connect(installed.kubeconfig_for(f"edit-{served}")) as editor:
        await setup.create(editor, QUANTIZED_MODELS, setup.quantized_model(served))
    async with await setup.connect(installed.kubeconfig_for(f"view-{served}")) as viewer:
        seen = await viewer.list_all(QUANTIZED_MODELS, served)
        said = await setup.refused(viewer.delete(QUANTIZED_MODELS, served, "model", uid=seen[0]["metadata"]["uid"]))
    assert [each["metadata"]["name"] for each in seen] == ["model"]
    assert "cannot delete resource" in said


FORBIDDEN = [
    pytest.param("GET", Resource("", "v1", "secrets"), None, id="read secrets"),
    pytest.param("POST", PODS, None, id="create pods other than by Jobs"),
    pytest.param("POST", QUANTIZED_MODELS, None, id="create QuantizedModels"),
    pytest.param("DELETE", QUANTIZED_MODELS, "model", id="delete QuantizedModels"),
    pytest.param("PATCH", QUANTIZED_MODELS, "model", id="change what its author wrote"),
    pytest.param("DELETE", AUTOSCALERS, "server", id="delete autoscalers"),
    pytest.param("POST", Resource("rbac.authorization.k8s.io", "v1", "rolebindings"), None, id="grant rights"),
]


@pytest.mark.parametrize(("method", "resource", "name"), FORBIDDEN)
async def test_the_operator_may_not(
    served: str, method: str, resource: Resource, name: str | None, granted: Cluster
) -> None:
    with pytest.raises(ApiError) as error:
        await granted.send(method, resource.path(served, name), body={} if method != "GET" else None)
    assert (error.value.status, error.value.reason) == (403, "Forbidden")


async def test_the_operator_may_do_nothing_in_a_namespace_that_did_not_opt_in(namespace: str, granted: Cluster) -> None:
    for resource in (QUANTIZED_MODELS, JOBS, DEPLOYMENTS, PODS):
        with pytest.raises(ApiError, match="cannot list resource"):
            await granted.list_all(resource, namespace)


async def test_the_operator_may_not_delete_or_scale_a_deployment_of_somebody_else(
    served: str, admin: Cluster, granted: Cluster
) -> None:
    made = await setup.create(admin, DEPLOYMENTS, setup.server(served))
    scaled = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "server"}, "spec": {"replicas": 0}}
    delete = granted.delete(DEPLOYMENTS, served, "server", uid=made["metadata"]["uid"])
    scale = granted.apply(DEPLOYMENTS, served, "server", scaled, manager="saffron.dev", force=True)
    assert "Saffron deletes only Deployments that it made." in await setup.refused(delete)
    assert "Saffron does not scale Deployments that it did not make." in await setup.refused(scale)
