"""The rule that a method fits its scheme, on a real API server that has a table in which one does not.

In today's table every method makes every scheme, so no request to the real CRD can break the rule.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubernetes import client
from saffron_api.candidate import Method, Scheme, method_fits_scheme
from saffron_api.crd import custom_resource_definition
from saffron_api.generate import REPOSITORY
from saffron_api.quantized_model import PLURAL, VERSION
from saffron_api.yaml_text import to_yaml

GROUP = "narrow.saffron.dev"
RULE = method_fits_scheme({Method.RTN: (Scheme.W4A16, Scheme.W8A8), Method.GPTQ: (Scheme.W4A16,)})


def narrow_crd() -> dict[str, Any]:
    """Our CRD in another group, with the narrower table's rule in place of the real one's."""
    crd = copy.deepcopy(custom_resource_definition())
    crd["metadata"]["name"] = f"{PLURAL}.{GROUP}"
    crd["spec"]["group"] = GROUP
    del crd["spec"]["names"]["shortNames"]
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    rules = spec["properties"]["candidates"]["items"]["x-kubernetes-validations"]
    rules[:] = [RULE.as_validation()] + [rule for rule in rules if rule["fieldPath"] != ".scheme"]
    return crd


@pytest.fixture
def narrow(kubectl, tmp_path: Path, custom_objects: client.CustomObjectsApi) -> Iterator[client.CustomObjectsApi]:
    name, file = f"crd/{PLURAL}.{GROUP}", tmp_path / "crd.yaml"
    file.write_text(to_yaml(narrow_crd()), encoding="utf-8")
    assert kubectl("apply", "--server-side", "-f", file).err == ""
    for condition in ("jsonpath={.status.acceptedNames.kind}=QuantizedModel", "condition=Established"):
        assert kubectl("wait", f"--for={condition}", "--timeout=30s", name).err == ""
    yield custom_objects
    kubectl("delete", name)


def request_for(scheme: str) -> dict[str, Any]:
    request = yaml.safe_load((REPOSITORY / "examples/minimal.yaml").read_text(encoding="utf-8"))
    request["apiVersion"] = f"{GROUP}/{VERSION}"
    request["spec"]["candidates"][0] = {"name": "a", "method": "GPTQ", "scheme": scheme}
    return request


def test_a_method_is_refused_a_scheme_that_it_does_not_make(narrow: client.CustomObjectsApi) -> None:
    create = (GROUP, VERSION, "default", PLURAL)
    narrow.create_namespaced_custom_object(*create, request_for("W4A16"), dry_run="All")
    with pytest.raises(client.ApiException) as refusal:
        narrow.create_namespaced_custom_object(*create, request_for("W8A8"), dry_run="All")
    (cause,) = json.loads(refusal.value.body)["details"]["causes"]
    assert cause["field"] == "spec.candidates[0].scheme"
    assert "must be a scheme that the method makes: RTN makes W4A16 or W8A8; GPTQ makes W4A16" in cause["message"]
