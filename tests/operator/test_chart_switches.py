"""What the chart's switches leave out, and what no switch does."""

import subprocess
from typing import Any

import pytest
import yaml
from apilevel import setup

from saffron_dev.binaries import helm
from saffron_operator.names import STAGE_LABEL

POLICIES = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
JOBS = f"{setup.OPERATOR}-jobs"
EVERY_JOB = {"matchExpressions": [{"key": STAGE_LABEL, "operator": "Exists"}]}
LIMITS, AUTHORS = f"{setup.OPERATOR}-limits", f"{setup.OPERATOR}-authors"


def objects(kinds: tuple[str, ...], *values: str) -> list[dict[str, Any]]:
    """The manifests of these kinds that the chart renders with these values."""
    options = [word for value in values for word in ("--set", value)]
    return [each for each in yaml.safe_load_all(setup.render(*options)) if each and each["kind"] in kinds]


@pytest.mark.parametrize(
    ("value", "expected"), [("true", {LIMITS, AUTHORS}), ("false", {LIMITS})], ids=["as it comes", "switched off"]
)
def test_the_policy_that_limits_the_operator_is_always_there(value: str, expected: set[str]) -> None:
    found = objects(POLICIES, f"admission.enabled={value}")
    for kind in POLICIES:
        assert {each["metadata"]["name"] for each in found if each["kind"] == kind} == expected


def test_jobs_may_call_nobody_in_each_namespace_that_opts_in() -> None:
    found = objects(("NetworkPolicy",), "watchNamespaces={a,b}")
    assert [(each["metadata"]["namespace"], each["spec"]) for each in found if each["metadata"]["name"] == JOBS] == [
        (namespace, {"podSelector": EVERY_JOB, "policyTypes": ["Ingress", "Egress"]}) for namespace in ("a", "b")
    ]


def test_only_pods_that_quantize_together_reach_each_other() -> None:
    """They add their sums up over the network; see `job.quantizeProcesses`."""
    found = objects(("NetworkPolicy",), "watchNamespaces={a,b}")
    others = [each for each in found if each["metadata"]["name"] != JOBS]
    assert [(each["metadata"]["namespace"], each["metadata"]["name"]) for each in others] == [
        ("a", f"{setup.OPERATOR}-together"),
        ("b", f"{setup.OPERATOR}-together"),
    ]
    together = {
        "matchLabels": {STAGE_LABEL: "quantize"},
        "matchExpressions": [{"key": "batch.kubernetes.io/job-completion-index", "operator": "Exists"}],
    }
    for each in others:
        assert each["spec"] == {
            "podSelector": together,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": together}]}],
            "egress": [{"to": [{"podSelector": together}]}],
        }


@pytest.mark.parametrize("name", ["20417", "1e3", "true", "null", "2024-01-31"])
def test_a_name_that_yaml_takes_for_something_else_stays_a_name(name: str) -> None:
    """Namespaces of such names are common where they are numbers of customers or teams."""
    words = [str(helm()), "template", name, str(setup.CHART), "--namespace", name, "--set-json"]
    words.append(f'watchNamespaces=["{name}", "plain"]')
    rendered = subprocess.run(words, text=True, check=True, capture_output=True).stdout
    for each in yaml.safe_load_all(rendered):
        metadata = each["metadata"]
        assert {type(value) for value in metadata.get("labels", {}).values()} <= {str}
        assert type(metadata.get("namespace", "")) is str
        for subject in each.get("subjects", ()):
            assert type(subject["namespace"]) is str
        if each["kind"] == "Deployment":
            assert each["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"] == name
        if each["kind"] == "Service":
            assert each["spec"]["selector"]["app.kubernetes.io/instance"] == name


def test_a_cluster_that_has_its_own_rules_can_leave_the_network_policy_out() -> None:
    assert objects(("NetworkPolicy",), "networkPolicy.enabled=false") == []


def test_the_chart_asks_for_a_cluster_that_can_select_by_a_field_of_the_spec() -> None:
    (crd,) = objects(("CustomResourceDefinition",))
    assert crd["spec"]["versions"][0]["selectableFields"] == [{"jsonPath": ".spec.rollout.targetRef.name"}]
    assert yaml.safe_load((setup.CHART / "Chart.yaml").read_text())["kubeVersion"] == ">=1.31-0"
