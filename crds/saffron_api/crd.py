"""The CustomResourceDefinition, made from the pydantic types.

Kubernetes takes a "structural" subset of OpenAPI 3.0: no references, no unions, every field's type in one place. The
types keep to what has a counterpart there, and this module translates it; whatever does not fit is an error here, at
generation, and not a surprise on somebody's API server.
"""

from collections.abc import Mapping
from typing import Any

from saffron_api.quantized_model import GROUP, KIND, PLURAL, VERSION, QuantizedModel

Schema = dict[str, Any]

_KEPT = frozenset(
    {"type", "description", "enum", "format", "pattern", "minimum", "maximum", "required"}
    | {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
)
_DROPPED = frozenset({"title"})
_TRANSLATED = frozenset({"properties", "items", "additionalProperties", "const", "default"})

_COLUMNS = (
    ("Phase", "string", ".status.phase"),
    ("Selected", "string", ".status.selected.name"),
    ("Gates", "string", '.status.conditions[?(@.type=="GatesPassed")].status'),
    ("Weight", "integer", ".status.rollout.actualWeight"),
    ("Age", "date", ".metadata.creationTimestamp"),
)

SELECTABLE_FIELDS = (".spec.rollout.targetRef.name",)
"""What a field selector of a list or a watch may name."""


class NotStructuralError(Exception):
    """A type has no counterpart in a structural schema, or a value has no bound."""


def custom_resource_definition() -> Schema:
    """The whole CRD, as an object to be written as YAML."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["qm"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path} for name, kind, path in _COLUMNS
                    ],
                    # The operator asks who else names a target; the API server need not send every resource for it.
                    "selectableFields": [{"jsonPath": path} for path in SELECTABLE_FIELDS],
                    "schema": {"openAPIV3Schema": root_schema()},
                }
            ],
        },
    }


def root_schema() -> Schema:
    """The structural schema of a QuantizedModel."""
    schema = QuantizedModel.model_json_schema(by_alias=True)
    root = structural(schema, schema["$defs"])
    properties: Schema = root["properties"]
    # The API server checks these three itself; a schema may not say more of them than their type.
    properties["apiVersion"] = {"type": "string"}
    properties["kind"] = {"type": "string"}
    properties["metadata"] = {"type": "object", "properties": {"name": {"type": "string"}}}
    root["required"] = ["spec"]
    for part in ("spec", "status"):
        require_bounds(properties[part], part)
    return root


def structural(schema: Mapping[str, Any], definitions: Mapping[str, Schema]) -> Schema:
    """A JSON schema of pydantic's as a structural schema.

    Args:
        schema: the schema of one value, with references.
        definitions: what the references point to, by name.

    Raises:
        NotStructuralError: something has no counterpart.
    """
    flat = _without_indirection(schema, definitions)
    result: Schema = {}
    for key, value in flat.items():
        if key in _KEPT or key.startswith("x-kubernetes-"):
            result[key] = value
        elif key not in _DROPPED | _TRANSLATED:
            raise NotStructuralError(f"{key} has no counterpart in a structural schema: {flat}")
    if "const" in flat:
        result["enum"] = [flat["const"]]
    if flat.get("default") is not None:
        # The fields of an object have their own defaults, which the API server fills in after this one.
        result["default"] = {} if isinstance(flat["default"], dict) else flat["default"]
    if "properties" in flat:
        result["properties"] = {name: structural(field, definitions) for name, field in flat["properties"].items()}
    if "items" in flat:
        result["items"] = structural(flat["items"], definitions)
    if isinstance(flat.get("additionalProperties"), dict):
        result["additionalProperties"] = structural(flat["additionalProperties"], definitions)
    return result


def _without_indirection(schema: Mapping[str, Any], definitions: Mapping[str, Schema]) -> Schema:
    """The schema with its reference followed, and with "this type or null" taken for "this type, optional"."""
    beside = {key: value for key, value in schema.items() if key not in {"$ref", "$defs", "anyOf"}}
    if "$ref" in schema:
        target = definitions[schema["$ref"].removeprefix("#/$defs/")]
        return _without_indirection(target, definitions) | beside
    if "anyOf" in schema:
        options = [option for option in schema["anyOf"] if option.get("type") != "null"]
        if len(options) != 1:
            raise NotStructuralError(f"a union of {len(options)} types: {options}")
        return _without_indirection(options[0], definitions) | beside
    return beside


def require_bounds(schema: Schema, path: str) -> None:
    """Check that no string, list or map can grow without end.

    The API server budgets each rule by the largest value that fits, and refuses a CRD whose rules could cost too much.

    Raises:
        NotStructuralError: one can; the message has its path.
    """
    bound = {"string": "maxLength", "array": "maxItems"}.get(schema.get("type", ""))
    if "additionalProperties" in schema:
        bound = "maxProperties"
    closed = "enum" in schema or schema.get("format") == "date-time"
    if bound is not None and bound not in schema and not closed:
        raise NotStructuralError(f"{path} has no {bound}")
    for name, field in schema.get("properties", {}).items():
        require_bounds(field, f"{path}.{name}")
    for key, suffix in (("items", "[]"), ("additionalProperties", ".*")):
        if key in schema:
            require_bounds(schema[key], path + suffix)
