"""The reference page of the API, as Markdown, made from the CRD itself, so that it can't say anything else."""

import json
from collections.abc import Iterator
from typing import Any

from saffron_api.model import VALIDATIONS

Schema = dict[str, Any]

_INTRODUCTION = """# API reference: {kind}

<!-- Made by `python -m saffron_api.generate` from the types in crds/saffron_api; edit those. -->

`{group}/{version}`, kind `{kind}`, short name `{short}`, namespaced. A field that is not listed does not exist yet: a
strict client, as kubectl is, refuses it by name. A field in **bold** is required wherever its parent is given.
"""
_TABLE = "| field | type | default | limits | meaning |\n|---|---|---|---|---|"
_ACROSS = """## Rules across fields

| field | rule |
|---|---|"""


def reference(crd: Schema) -> str:
    """The Markdown page for a CRD."""
    names, version = crd["spec"]["names"], crd["spec"]["versions"][0]
    root = version["schema"]["openAPIV3Schema"]
    parts = [
        _INTRODUCTION.format(
            group=crd["spec"]["group"], version=version["name"], kind=names["kind"], short=names["shortNames"][0]
        )
    ]
    for part in ("spec", "status"):
        schema = root["properties"][part]
        rows = "\n".join(_rows(schema, part, {}))
        parts.append(f"## {part}\n\n{schema['description']}\n\n{_TABLE}\n{rows}\n")
    parts.append("\n".join([_ACROSS, *_rules_across_fields(root, "")]) + "\n")
    return "\n".join(parts)


def _rows(schema: Schema, path: str, seen: dict[str, str]) -> Iterator[str]:
    """The rows of everything below a schema. `seen`: where each larger object was first written out."""
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        shown = f"**`{here}`**" if name in schema.get("required", []) else f"`{here}`"
        text = json.dumps(field.get("properties", {}))
        twin = seen.get(text) if len(field.get("properties", {})) > 1 else None
        seen.setdefault(text, here)
        meaning = field.get("description", "") + (f" Fields as in `{twin}`." if twin else "")
        yield f"| {shown} | {_type(field)} | {_default(field)} | {_limits(field)} | {_cell(meaning)} |"
        if twin is None:
            yield from _rows(field, here, seen)
            yield from _rows(field.get("items", {}), f"{here}[]", seen)


def _type(field: Schema) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if field["type"] == "array":
        return f"list of {_type(field['items'])}s"
    if "additionalProperties" in field:
        return f"map to {_type(field['additionalProperties'])}"
    return "time" if field.get("format") == "date-time" else str(field["type"])


def _default(field: Schema) -> str:
    """The default; an object's own is not shown, since its fields' are."""
    return f"`{json.dumps(field['default'])}`" if "default" in field and field["default"] != {} else ""


def _limits(field: Schema) -> str:
    entries = field.get("items") or field.get("additionalProperties") or {}
    said = [", ".join(f"`{value}`" for value in (field.get("enum") or entries.get("enum") or []))]
    said.append(_range(field, "minimum", "maximum", ""))
    said.append(_range(field, "minLength", "maxLength", " characters"))
    said.append(_range(field, "minItems", "maxItems", " entries"))
    said.append(_range(field, "minProperties", "maxProperties", " entries"))
    if field.get("x-kubernetes-list-type") in {"map", "set"}:
        said.append("unique" + "".join(f" by {key}" for key in field.get("x-kubernetes-list-map-keys", [])))
    said += [rule["message"] for rule in field.get(VALIDATIONS, []) if "fieldPath" not in rule]
    said += [f"each {rule['message']}" for rule in entries.get(VALIDATIONS, []) if "properties" not in entries]
    return _cell("; ".join(text for text in said if text))


def _range(field: Schema, low: str, high: str, unit: str) -> str:
    least, most = field.get(low), field.get(high)
    if most is None:
        return "" if least is None else f"at least {least}{unit}"
    return f"at most {most}{unit}" if least is None else f"{least} to {most}{unit}"


def _rules_across_fields(schema: Schema, path: str) -> Iterator[str]:
    for rule in schema.get(VALIDATIONS, []):
        if "fieldPath" in rule:
            yield f"| `{(path + rule['fieldPath']).removeprefix('.')}` | {_cell(rule['message'])} |"
    for name, field in schema.get("properties", {}).items():
        yield from _rules_across_fields(field, f"{path}.{name}")
        yield from _rules_across_fields(field.get("items", {}), f"{path}.{name}[]")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
