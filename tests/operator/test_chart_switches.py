"""What the chart's switches leave out, and what no switch does."""

from typing import Any

import pytest
import yaml
from apilevel import setup

POLICIES = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
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


QUANTIZES = {"matchLabels": {"saffron.dev/stage": "quantize"}}


def test_jobs_may_call_nobody_in_each_namespace_that_opts_in_but_pods_that_quantize_together_each_other() -> None:
    found = objects(("NetworkPolicy",), "watchNamespaces={a,b}")
    assert [(each["metadata"]["namespace"], each["metadata"]["name"], each["spec"]) for each in found] == [
        (namespace, f"{setup.OPERATOR}-{name}", spec)
        for namespace in ("a", "b")
        for name, spec in (
            (
                "jobs",
                {
                    "podSelector": {"matchExpressions": [{"key": "saffron.dev/stage", "operator": "Exists"}]},
                    "policyTypes": ["Ingress", "Egress"],
                },
            ),
            (
                "together",
                {
                    "podSelector": QUANTIZES,
                    "policyTypes": ["Ingress", "Egress"],
                    "ingress": [{"from": [{"podSelector": QUANTIZES}]}],
                    "egress": [{"to": [{"podSelector": QUANTIZES}]}],
                },
            ),
        )
    ]


def test_a_cluster_that_has_its_own_rules_can_leave_the_network_policy_out() -> None:
    assert objects(("NetworkPolicy",), "networkPolicy.enabled=false") == []


def test_the_chart_asks_for_a_cluster_that_can_select_by_a_field_of_the_spec() -> None:
    (crd,) = objects(("CustomResourceDefinition",))
    assert crd["spec"]["versions"][0]["selectableFields"] == [{"jsonPath": ".spec.rollout.targetRef.name"}]
    assert yaml.safe_load((setup.CHART / "Chart.yaml").read_text())["kubeVersion"] == ">=1.31-0"
