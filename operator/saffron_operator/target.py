"""Reading a Deployment that serves a model: the path it reads, how it gets there, what of ours is on it.

Saffron mounts a checkpoint over the very path that the server already reads. So the path has to stand in the server's
arguments, inside a volume that is mounted above it. Whatever is else is a `TargetProblem` that names the field.
"""

import posixpath
import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from saffron_api.keys import digest
from saffron_api.scalars import is_zero
from saffron_operator.names import CHECKPOINT_ANNOTATION, CHECKPOINT_VOLUME
from saffron_operator.observed import Engine, Json, Overlay, TargetFacts, TargetProblem
from saffron_operator.ownership import others, overlay_manager
from saffron_operator.reasons import TARGET_CONFLICT, TARGET_UNSUPPORTED
from saffron_operator.target_warnings import warnings

_SHELLS = frozenset({"sh", "bash", "ash", "dash", "zsh"})
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MODULE = "vllm.entrypoints.openai.api_server"
_CARDS = frozenset({"--tensor-parallel-size", "-tp"})
_QUANTIZATION = {
    Engine.VLLM: frozenset({"--quantization", "-q"}),
    Engine.TRANSFORMERS: frozenset({"--quantization"}),
}


class _Problem(Exception):  # noqa: N818 - it never leaves this file
    """The target can't be worked with; carries what `read` returns."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.problem = TargetProblem(reason, message)


def read(deployment: Json, *, container: str, model_uri: str) -> TargetFacts | TargetProblem:
    """Return what a Deployment's manifest says, or why Saffron can't work with it.

    Args:
        deployment: The object as the API server returns it, with `metadata.managedFields`.
        container: Of spec.rollout.targetRef.
        model_uri: Of spec.model: `pvc://CLAIM/PATH`. A server that reads another path of that claim is refused.
    """
    try:
        return _read(deployment, container, model_uri)
    except _Problem as found:
        return found.problem


def _read(deployment: Json, name: str, model_uri: str) -> TargetFacts:
    template = deployment["spec"]["template"]
    container = _container(template, name)
    engine, arguments = _engine(container)
    path = _model_path(container, arguments)
    _check_mounts(template, container, path, model_uri)
    original = _without_overlay(template)
    return TargetFacts(
        engine=engine,
        image=container.get("image", ""),
        accelerated=_accelerated(container),
        model_path=path,
        template=original,
        template_hash=digest({"template": original, "container": name, "modelPath": path}),
        overlay=_overlay(deployment, container, path),
        also_held=others(deployment, name, path),
        environment=_environment(container),
        cards=_cards(arguments) if engine is Engine.VLLM else 1,
        quantization=_quantization(engine, arguments),
        warnings=warnings(deployment, container),
    )


def _container(template: Json, name: str) -> dict[str, Any]:
    containers: list[dict[str, Any]] = template["spec"]["containers"]
    for container in containers:
        if container["name"] == name:
            return container
    there = ", ".join(container["name"] for container in containers)
    raise _Problem(TARGET_UNSUPPORTED, f"The target has no container {name}; it has {there}. Name one of these.")


def _engine(container: Json) -> tuple[Engine, Sequence[str]]:
    """Return what serves, and the arguments after its own name."""
    words: list[str] = [*container.get("command", ()), *container.get("args", ())]
    where = f"containers[{container['name']}].command"
    if words and posixpath.basename(words[0]) in _SHELLS:
        raise _Problem(
            TARGET_UNSUPPORTED,
            f"{where}: a shell hides the model's path; write the server and its arguments as a list.",
        )
    names = [posixpath.basename(word) for word in words]
    if _MODULE in words:
        return Engine.VLLM, words[words.index(_MODULE) + 1 :]
    for engine, name in ((Engine.VLLM, "vllm"), (Engine.TRANSFORMERS, "transformers")):
        if name in names and "serve" in words[names.index(name) + 1 :]:
            return engine, words[names.index(name) + 1 :]
    # An image whose entry point is the server has only arguments.
    if not container.get("command") and "vllm" in container.get("image", ""):
        # It is `vllm serve` where the path comes first, as nothing else is given a path alone.
        return Engine.VLLM, ["serve", *words] if words and words[0].startswith("/") else words
    raise _Problem(
        TARGET_UNSUPPORTED,
        f"{where}: neither `vllm serve PATH`, `python -m {_MODULE} --model PATH` nor `transformers serve PATH`; "
        "Saffron knows no other server.",
    )


def _model_path(container: Json, arguments: Sequence[str]) -> str:
    where = f"containers[{container['name']}].args"
    found = None
    for before, word in zip(["", *arguments], arguments, strict=False):
        if word.startswith("--model="):
            found = word.removeprefix("--model=")
        elif before == "--model" or (before == "serve" and not word.startswith("-")):
            found = word
    if found is None:
        raise _Problem(
            TARGET_UNSUPPORTED, f"{where}: no --model PATH and no `serve PATH`; give the model's path there."
        )
    if not found.startswith("/") or "$(" in found:
        raise _Problem(
            TARGET_UNSUPPORTED,
            f"{where}: the model is {found}, which is no absolute path; mount the model and give its path.",
        )
    return posixpath.normpath(found)


def _cards(arguments: Sequence[str]) -> int | None:
    """Return vLLM's tensor-parallel size, whose last mention counts; None where it is no number, as `$(CARDS)`."""
    said = _said(arguments, _CARDS) or "1"
    return int(said) if said.isascii() and said.isdigit() and int(said) > 0 else None


def _quantization(engine: Engine, arguments: Sequence[str]) -> str | None:
    """Return how the server is told to quantize what it loads; None where it is told nothing."""
    said = _said(arguments, _QUANTIZATION[engine])
    return None if said in {"", "None"} else said


def _said(arguments: Sequence[str], options: frozenset[str]) -> str | None:
    """Return the value of an option, whose last mention counts; None where it is not there."""
    said = None
    for before, word in zip(["", *arguments], arguments, strict=False):
        option, equals, value = word.partition("=")
        if _spelled(option) in options and equals:
            said = value
        elif _spelled(before) in options:
            said = word
    return said


def _spelled(option: str) -> str:
    """Return an option as its documentation spells it: vLLM takes an underscore for a dash."""
    return option.replace("_", "-")


def _check_mounts(template: Json, container: Json, path: str, model_uri: str) -> None:
    where = f"containers[{container['name']}].volumeMounts"
    mounts = [mount for mount in container.get("volumeMounts", ()) if mount["name"] != CHECKPOINT_VOLUME]
    if any(posixpath.normpath(mount["mountPath"]) == path for mount in mounts):
        raise _Problem(
            TARGET_UNSUPPORTED,
            f"{where}: the model's path {path} is itself a mountPath, and a path can be mounted only once; mount its "
            "parent folder.",
        )
    above = [mount for mount in mounts if path.startswith(posixpath.normpath(mount["mountPath"]).rstrip("/") + "/")]
    if not above:
        raise _Problem(TARGET_UNSUPPORTED, f"{where}: no volume is mounted above the model's path {path}; mount one.")
    nearest = max(above, key=lambda mount: len(posixpath.normpath(mount["mountPath"])))
    served = _served_uri(template, nearest, path)
    wanted_claim, _, wanted_path = model_uri.removeprefix("pvc://").partition("/")
    if served is not None and served[0] == wanted_claim and served[1] != wanted_path:
        raise _Problem(
            TARGET_UNSUPPORTED,
            f"{where}: the server reads pvc://{served[0]}/{served[1]}, and spec.model.uri is {model_uri}; the "
            "checkpoint would replace another model than the one it was made from.",
        )


def _served_uri(template: Json, mount: Json, path: str) -> tuple[str, str] | None:
    """Return the claim and the path in it that the server reads, or None where the volume is no claim."""
    volumes = {volume["name"]: volume for volume in template["spec"].get("volumes", ())}
    claim = volumes.get(mount["name"], {}).get("persistentVolumeClaim")
    if claim is None or "subPathExpr" in mount:
        return None
    inside = posixpath.relpath(path, posixpath.normpath(mount["mountPath"]))
    return claim["claimName"], posixpath.normpath(posixpath.join(mount.get("subPath", ""), inside))


def _environment(container: Json) -> frozenset[str]:
    """Return what is written out; of a name that comes twice the last counts, as for the kubelet."""
    last = {each["name"]: each for each in container.get("env", ())}
    return frozenset(f"{name}={each.get('value', '')}" for name, each in last.items() if "valueFrom" not in each)


def _accelerated(container: Json) -> bool:
    limits = container.get("resources", {}).get("limits", {})
    return any(name.startswith(("nvidia.com/", "amd.com/")) and not is_zero(amount) for name, amount in limits.items())


def _without_overlay(template: Json) -> dict[str, Any]:
    """Return a copy of a pod template without volume, volumeMount and annotation of ours."""
    copy: dict[str, Any] = deepcopy(dict(template))
    _drop_annotation(copy.get("metadata", {}))
    spec = copy["spec"]
    _drop_named(spec, "volumes")
    for container in spec["containers"]:
        _drop_named(container, "volumeMounts")
    return copy


def _drop_annotation(metadata: dict[str, Any]) -> None:
    annotations = metadata.get("annotations", {})
    annotations.pop(CHECKPOINT_ANNOTATION, None)
    if not annotations:
        metadata.pop("annotations", None)


def _drop_named(owner: dict[str, Any], field: str) -> None:
    """Drop our entry of a list, and the list if it was the only one: as if it had never been there."""
    kept = [item for item in owner.get(field, ()) if item["name"] != CHECKPOINT_VOLUME]
    if kept:
        owner[field] = kept
    else:
        owner.pop(field, None)


def _overlay(deployment: Json, container: Json, path: str) -> Overlay | None:
    template = deployment["spec"]["template"]
    ours = [mount for mount in container.get("volumeMounts", ()) if mount["name"] == CHECKPOINT_VOLUME]
    there = any(volume["name"] == CHECKPOINT_VOLUME for volume in template["spec"].get("volumes", ()))
    if not ours and not there:
        return None
    manager = overlay_manager(deployment)
    mount = next((mount for mount in ours if posixpath.normpath(mount["mountPath"]) == path), None)
    found = posixpath.basename(mount.get("subPath", "")) if mount is not None else ""
    if manager is None or (mount is not None and not _DIGEST.fullmatch(found)):
        raise _Problem(
            TARGET_CONFLICT,
            f"volumes[{CHECKPOINT_VOLUME}] of the target was not put there by Saffron, which needs that name; "
            "rename the volume.",
        )
    if mount is None:
        return None  # the server reads another path now, so nothing of ours is served
    annotation = template.get("metadata", {}).get("annotations", {}).get(CHECKPOINT_ANNOTATION, "")
    run, candidate, _ = (*annotation.split("/"), "", "", "")[:3]
    return Overlay(run=run, candidate=candidate, digest=found, manager=manager)
