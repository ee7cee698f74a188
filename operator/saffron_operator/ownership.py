"""Who holds what Saffron sets on a target, as the API server keeps book of it in `metadata.managedFields`.

Server-side apply refuses to change a field that another manager holds. That is the case before any try, so it is read
here and told, instead of being run into.
"""

import json
from collections.abc import Iterator

from saffron_operator.names import CHECKPOINT_ANNOTATION, CHECKPOINT_VOLUME, FIELD_MANAGER
from saffron_operator.observed import Holder, Json


def overlay_manager(deployment: Json) -> str | None:
    """Return the field manager of ours that holds the volume; None where there is none."""
    return next((manager for manager in _managers(deployment, _volume()) if _is_ours(manager)), None)


def others(deployment: Json, container: str, model_path: str) -> tuple[Holder, ...]:
    """Return who else holds the volume, the volumeMount or the annotation that Saffron sets, or would set."""
    mount = ("f:spec", "f:containers", _key(name=container), "f:volumeMounts", _key(mountPath=model_path))
    entries = (
        (f"annotations[{CHECKPOINT_ANNOTATION}]", ("f:metadata", "f:annotations", f"f:{CHECKPOINT_ANNOTATION}")),
        (f"volumes[{CHECKPOINT_VOLUME}]", _volume()),
        (f"containers[{container}].volumeMounts[{model_path}]", mount),
    )
    return tuple(
        Holder(field, manager)
        for field, steps in entries
        for manager in _managers(deployment, steps)
        if not _is_ours(manager)
    )


def _volume() -> tuple[str, ...]:
    return ("f:spec", "f:volumes", _key(name=CHECKPOINT_VOLUME))


def _key(**fields: str) -> str:
    """Return how managedFields name an entry of a list."""
    return f"k:{json.dumps(fields, separators=(',', ':'), ensure_ascii=False)}"


def _managers(deployment: Json, steps: tuple[str, ...]) -> Iterator[str]:
    """Yield each manager that holds something at or below a place of the pod template."""
    for entry in deployment["metadata"].get("managedFields", ()):
        fields = entry.get("fieldsV1", {})
        for step in ("f:spec", "f:template", *steps[:-1]):
            fields = fields.get(step, {})
        if steps[-1] in fields:
            yield str(entry.get("manager", ""))


def _is_ours(manager: str) -> bool:
    return manager.startswith(f"{FIELD_MANAGER}-")
