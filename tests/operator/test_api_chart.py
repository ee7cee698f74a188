"""The chart: lint, values that can't be right, and manifests that a real API server takes."""

import subprocess
from typing import Any

import pytest
import yaml
from apilevel import setup

from saffron_dev.binaries import helm
from saffron_dev.controlplane import ControlPlane

VALUES = [
    pytest.param((), id="as it comes"),
    pytest.param(("--set", "watchNamespaces={default,kube-public}"), id="two namespaces"),
    pytest.param(("--set", "crds.install=false,admission.enabled=false,rbac.aggregate=false"), id="the least"),
    pytest.param(
        (
            *("--set", "imagePullSecrets[0].name=registry,nodeSelector.disk=ssd"),
            *("--set", "tolerations[0].operator=Exists,resources.limits.cpu=1"),
        ),
        id="placed by hand",
    ),
]


@pytest.mark.parametrize("options", VALUES)
def test_every_manifest_is_accepted_by_the_api_server(installed: ControlPlane, options: tuple[str, ...]) -> None:
    dry = ("apply", "--server-side", "--dry-run=server", "--force-conflicts", "--validate=strict")
    printed = setup.kubectl(installed, *dry, "--filename", "-", text=setup.render(*options))
    rendered = [each for each in yaml.safe_load_all(setup.render(*options)) if each]
    assert len(printed.splitlines()) == len(rendered)


def test_lint_finds_nothing() -> None:
    done = subprocess.run([helm(), "lint", "--strict", setup.CHART], text=True, capture_output=True, check=False)
    assert (done.returncode, "1 chart(s) linted, 0 chart(s) failed" in done.stdout) == (0, True)


WRONG = [
    pytest.param("replicaCount=-1", "/replicaCount", id="a number of replicas below zero"),
    pytest.param("watchNamespaces={Default}", "/watchNamespaces/0", id="no name of a namespace"),
    pytest.param("watchNamespace=default", "watchNamespace", id="a value that does not exist"),
    pytest.param("image.pullPolicy=Sometimes", "/image/pullPolicy", id="no pull policy"),
    pytest.param("leaseSeconds=1", "/leaseSeconds", id="a Lease too short to be renewed"),
]


@pytest.mark.parametrize(("value", "named"), WRONG)
def test_a_wrong_value_is_refused_by_name(value: str, named: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        setup.render("--set", value)
    assert "values don't meet the specifications of the schema" in error.value.stderr
    assert named in error.value.stderr


def objects(*options: str) -> dict[tuple[str, str], dict[str, Any]]:
    rendered = yaml.safe_load_all(setup.render(*options))
    return {(each["kind"], each["metadata"]["name"]): each for each in rendered if each}


def test_the_crd_stays_when_the_chart_goes() -> None:
    crd = objects()["CustomResourceDefinition", "quantizedmodels.saffron.dev"]
    assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_each_namespace_that_opts_in_gets_one_role_binding_and_one_argument() -> None:
    rendered = setup.render("--set", "watchNamespaces={a,b}")
    bindings = [
        each["metadata"]["namespace"]
        for each in yaml.safe_load_all(rendered)
        if each and each["kind"] == "RoleBinding" and each["metadata"]["name"] == setup.OPERATOR
    ]
    deployment = objects("--set", "watchNamespaces={a,b}")["Deployment", setup.OPERATOR]
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    assert bindings == ["a", "b"]
    assert [each for each in arguments if each.startswith("--namespace=")] == ["--namespace=a", "--namespace=b"]


def test_nothing_binds_the_operator_to_the_whole_cluster() -> None:
    assert not [kind for kind, _ in objects() if kind == "ClusterRoleBinding"]
