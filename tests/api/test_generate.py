"""The generator: the CRD is structural and bounded, the YAML means what was to be written, and --check notices."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from saffron_api.candidate import GROUPED_SCHEMES, CandidateSpec, Method, Scheme, method_fits_scheme
from saffron_api.crd import NotStructuralError, custom_resource_definition, require_bounds, root_schema, structural
from saffron_api.generate import CRD_PATH, REFERENCE_PATH, REPOSITORY, generated, main
from saffron_api.yaml_text import to_yaml

FORBIDDEN = {"$ref", "$defs", "anyOf", "oneOf", "allOf", "const", "title", "nullable", "exclusiveMinimum"}


def test_the_checked_in_files_are_what_the_types_say() -> None:
    assert main(["--check"]) == 0


def test_check_names_each_file_that_is_missing_or_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--repository", str(tmp_path)]
    assert main(arguments) == 0
    assert main([*arguments, "--check"]) == 0
    (tmp_path / CRD_PATH).write_text("kind: Other\n", encoding="utf-8")
    (tmp_path / REFERENCE_PATH).unlink()
    capsys.readouterr()
    assert main([*arguments, "--check"]) == 1
    advice = "is out of date: run python -m saffron_api.generate and commit what it writes"
    assert capsys.readouterr().err.splitlines() == [f"{CRD_PATH} {advice}", f"{REFERENCE_PATH} {advice}"]


def test_the_yaml_reads_back_as_the_object_that_was_written() -> None:
    assert yaml.safe_load(generated()[CRD_PATH]) == custom_resource_definition()


# YAML 1.1, which PyYAML reads, takes 1e+16 for text; YAML 1.2, which Kubernetes reads, for a number.
floats = st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: "e" not in repr(number))
scalars = st.none() | st.booleans() | st.integers() | floats
texts = st.text(st.characters(min_codepoint=32, max_codepoint=126)) | st.sampled_from(
    ["yes", "Null", "1e3", "-", "a: b"]
)
objects = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(texts, objects, min_size=1, max_size=4))
def test_any_object_survives_being_written_and_read(value: dict[str, Any]) -> None:
    assert yaml.safe_load(to_yaml(value)) == value


def every_key(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        return set(schema).union(*map(every_key, schema.values()), set())
    return set().union(*map(every_key, schema)) if isinstance(schema, list) else set()


def test_nothing_in_the_schema_is_outside_the_structural_subset() -> None:
    assert every_key(root_schema()) & FORBIDDEN == set()


def test_every_field_of_the_spec_says_what_it_is() -> None:
    def silent(schema: dict[str, Any], path: str) -> list[str]:
        below = [(f"{path}.{name}", field) for name, field in schema.get("properties", {}).items()]
        below += [(path + "[]", schema["items"])] if "properties" in schema.get("items", {}) else []
        return [at for at, field in below if "description" not in field] + [
            each for at, field in below for each in silent(field, at)
        ]

    assert silent(root_schema()["properties"]["spec"], "spec") == []


UNBOUNDED = {
    "a string": ({"type": "string"}, "spec.x has no maxLength"),
    "a list": ({"type": "array", "items": {"type": "integer"}}, "spec.x has no maxItems"),
    "a map": ({"type": "object", "additionalProperties": {"type": "integer"}}, "spec.x has no maxProperties"),
    "a string in a list": (
        {"type": "array", "maxItems": 2, "items": {"type": "string"}},
        r"spec.x\[\] has no maxLength",
    ),
}


@pytest.mark.parametrize(("schema", "said"), UNBOUNDED.values(), ids=UNBOUNDED.keys())
def test_what_can_grow_without_end_is_refused(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(NotStructuralError, match=said):
        require_bounds({"type": "object", "properties": {"x": schema}}, "spec")


UNTRANSLATABLE = {
    "a union of types": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
    "a bound that is not included": {"type": "number", "exclusiveMinimum": 0},
    "a pattern of names": {"type": "object", "patternProperties": {}},
}


@pytest.mark.parametrize("schema", UNTRANSLATABLE.values(), ids=UNTRANSLATABLE.keys())
def test_what_has_no_counterpart_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(NotStructuralError):
        structural(schema, {})


def test_the_rule_of_methods_and_schemes_is_made_from_their_table() -> None:
    rule = method_fits_scheme({Method.RTN: (Scheme.W4A16, Scheme.W8A8), Method.GPTQ: (Scheme.W4A16,)})
    assert rule.cel == "self.scheme in {'RTN': ['W4A16', 'W8A8'], 'GPTQ': ['W4A16']}[self.method]"
    assert rule.message == "must be a scheme that the method makes: RTN makes W4A16 or W8A8; GPTQ makes W4A16"
    assert rule.is_broken_by(CandidateSpec(method=Method.GPTQ, scheme=Scheme.W8A8))
    assert not rule.is_broken_by(CandidateSpec(method=Method.RTN, scheme=Scheme.W8A8))


def test_every_rule_of_the_schema_is_in_the_reference() -> None:
    def messages(schema: Any) -> set[str]:
        if isinstance(schema, list):
            return set().union(*map(messages, schema))
        if not isinstance(schema, dict):
            return set()
        own = {rule["message"] for rule in schema.get("x-kubernetes-validations", [])}
        return own.union(*map(messages, schema.values()))

    page = (REPOSITORY / REFERENCE_PATH).read_text(encoding="utf-8")
    assert {message for message in messages(root_schema()) if message not in page} == set()


def test_only_grouped_schemes_have_a_group_size() -> None:
    sizes = {scheme: CandidateSpec(method=Method.RTN, scheme=scheme).effective_group_size for scheme in Scheme}
    assert sizes == {scheme: 128 if scheme in GROUPED_SCHEMES else None for scheme in Scheme}
