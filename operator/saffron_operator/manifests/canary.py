"""The canary: a Deployment like the target, with the checkpoint mounted, that takes a share of the same requests."""

from copy import deepcopy
from typing import Any

from saffron_operator import names
from saffron_operator.manifests.overlay import Checkpoint
from saffron_operator.manifests.owner import owner_references
from saffron_operator.observed import ResourceMeta, TargetFacts


def build(
    meta: ResourceMeta,
    facts: TargetFacts,
    checkpoint: Checkpoint,
    *,
    target: str,
    container: str,
    replicas: int,
    progress_deadline_seconds: int,
    uid: str | None,
) -> dict[str, Any]:
    """Return the manifest of a canary.

    Its pods have the target's labels, so that the same Services pick them, and one more, which alone is in its
    selector: it must not adopt the target's pods.

    Args:
        meta: Of the QuantizedModel.
        facts: Of the target; its template is the canary's.
        checkpoint: To serve.
        target: The target's name.
        container: That serves.
        replicas: Pods.
        progress_deadline_seconds: After which Kubernetes calls it stuck.
        uid: Of the canary that is there, so that no other is changed; None where there is none.
    """
    own = {names.MANAGED_BY_LABEL: names.MANAGED_BY, names.RESOURCE_LABEL: meta.name, names.CANARY_LABEL: target}
    metadata: dict[str, Any] = {
        "name": names.canary_name(target),
        "namespace": meta.namespace,
        "labels": own,
        "annotations": {names.TEMPLATE_ANNOTATION: facts.template_hash},
        "ownerReferences": owner_references(meta),
    }
    if uid is not None:
        metadata["uid"] = uid
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": replicas,
            "progressDeadlineSeconds": progress_deadline_seconds,
            "revisionHistoryLimit": 1,
            # Never more pods than maxExtraReplicas, not even while it is rebuilt: they may cost a GPU each.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {names.CANARY_LABEL: target}},
            "template": _template(facts, checkpoint, target, container),
        },
    }


def _template(facts: TargetFacts, checkpoint: Checkpoint, target: str, container: str) -> dict[str, Any]:
    template: dict[str, Any] = deepcopy(dict(facts.template))
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = metadata.get("labels", {}) | {names.CANARY_LABEL: target}
    metadata["annotations"] = metadata.get("annotations", {}) | checkpoint.annotation
    spec = template["spec"]
    spec["volumes"] = [*spec.get("volumes", []), checkpoint.volume]
    for each in spec["containers"]:
        if each["name"] == container:
            each["volumeMounts"] = [*each.get("volumeMounts", []), checkpoint.mount(facts.model_path)]
    return template
