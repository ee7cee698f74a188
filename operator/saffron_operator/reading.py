"""From what the API server says to what `decide` looks at: pure, one function a kind. Jobs are read by `job_reading`.

A field that Kubernetes leaves out until it has something to say reads as its zero.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime

from pydantic import ValidationError

from saffron_api.quantized_model import KIND, QuantizedModelSpec
from saffron_operator import names
from saffron_operator.observed import (
    CanaryObserved,
    Json,
    ResourceMeta,
    SpecError,
    TargetFacts,
    TargetObserved,
    TargetProblem,
    Waiting,
)

_BACK_OFF = re.compile(r'Back-off pulling image ".*?": (?P<reason>[A-Za-z]+): (?P<cause>.*)', re.DOTALL)


def meta(resource: Json) -> ResourceMeta:
    """Return the metadata of a QuantizedModel."""
    data = resource["metadata"]
    return ResourceMeta(
        name=data["name"],
        namespace=data["namespace"],
        uid=data["uid"],
        generation=data["generation"],
        resource_version=data["resourceVersion"],
        created=moment(data["creationTimestamp"]),
        deleting="deletionTimestamp" in data,
        annotations=data.get("annotations", {}),
    )


def spec(resource: Json) -> QuantizedModelSpec | SpecError:
    """Return the spec of a QuantizedModel, or the first thing that is wrong with it."""
    try:
        return QuantizedModelSpec.model_validate(resource["spec"])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(["spec", *(str(part) for part in first["loc"])])
        return SpecError(f"{path}: {first['msg']}")


def canary(deployment: Json, pods: Sequence[Json], models: Sequence[Json]) -> CanaryObserved:
    """Return the Deployment that bears a canary's name.

    Args:
        deployment: It.
        pods: Those labelled as the canary's.
        models: The QuantizedModels that name the same target. What another one owns is about to be deleted.
    """
    data, status = deployment["metadata"], deployment.get("status", {})
    return CanaryObserved(
        name=data["name"],
        uid=data["uid"],
        owner_uid=controller(data),
        replicas=deployment["spec"]["replicas"],
        total=status.get("replicas", 0),
        ready=status.get("readyReplicas", 0),
        updated=status.get("updatedReplicas", 0),
        current=is_current(deployment),
        digest=_overlay(deployment["spec"]["template"]).rpartition("/")[2],
        template_hash=data.get("annotations", {}).get(names.TEMPLATE_ANNOTATION, ""),
        deleting="deletionTimestamp" in data or is_left(data, None, models),
        deadline_exceeded=_deadline_exceeded(_progressing(deployment)),
        trouble=trouble(pods) or _without_pods(deployment),
    )


def is_current(deployment: Json) -> bool:
    """Whether the Deployment's status speaks of its newest spec."""
    observed: int = deployment.get("status", {}).get("observedGeneration", 0)
    wanted: int = deployment["metadata"]["generation"]
    return observed >= wanted


def trouble(pods: Sequence[Json]) -> Waiting | None:
    """Return why the newest of the pods that are not ready waits, or None where none says why."""
    newest_first = sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)
    reasons = (_waiting(pod) for pod in newest_first if "deletionTimestamp" not in pod["metadata"])
    return next((reason for reason in reasons if reason is not None), None)


def _without_pods(deployment: Json) -> Waiting | None:
    """Return why a pod of it is not even made, as for a quota; None where all are."""
    failed = condition(deployment, "ReplicaFailure")
    if failed is None:
        return None
    return Waiting(failed["reason"], failed.get("message", ""), moment(failed["lastTransitionTime"]))


def condition(manifest: Json, kind: str) -> Json | None:
    """Return the condition of that type if it is True."""
    found: Sequence[Json] = manifest.get("status", {}).get("conditions") or ()
    return next((each for each in found if each["type"] == kind and each["status"] == "True"), None)


def moment(text: str) -> datetime:
    """Return the time in a Kubernetes timestamp."""
    return datetime.fromisoformat(text)


def _progressing(deployment: Json) -> Json | None:
    found: Sequence[Json] = deployment.get("status", {}).get("conditions") or ()
    return next((each for each in found if each["type"] == "Progressing"), None)


def _deadline_exceeded(progressing: Json | None) -> bool:
    return progressing is not None and progressing.get("reason") == "ProgressDeadlineExceeded"


def _owner(data: Json) -> Json | None:
    """Return the reference to the object that controls this one."""
    owners: Sequence[Json] = data.get("ownerReferences", ())
    return next((owner for owner in owners if owner.get("controller")), None)


def controller(data: Json) -> str | None:
    """Return the uid of the object that controls this one."""
    owner = _owner(data)
    return None if owner is None else owner["uid"]


def is_left(data: Json, name: str | None, living: Sequence[Json]) -> bool:
    """Return whether an object is what a QuantizedModel has left, of that name if one is given, that lives no more.

    The cluster deletes it a moment after its owner.
    """
    owner = _owner(data)
    if owner is None or owner["kind"] != KIND or name not in (None, owner["name"]):
        return False
    return owner["uid"] not in {each["metadata"]["uid"] for each in living}


def _waiting_containers(pod: Json) -> Iterator[Json]:
    """Yield why each container that waits does."""
    status = pod.get("status", {})
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        if "waiting" in container.get("state", {}):
            yield container["state"]["waiting"]


def _waiting(pod: Json) -> Waiting | None:
    # Until it has a node it waits for room, which is not its own trouble.
    scheduled = condition(pod, "PodScheduled") or {}
    since = moment(scheduled.get("lastTransitionTime") or pod["metadata"]["creationTimestamp"])
    # ContainerCreating and PodInitializing are the way of every pod, no trouble.
    for state in _waiting_containers(pod):
        if state.get("reason") not in {None, "ContainerCreating", "PodInitializing"}:
            return Waiting(*_trouble_itself(state["reason"], state.get("message", "")), since)
    told_by = {"Pending": "PodScheduled", "Running": "Ready"}.get(pod.get("status", {}).get("phase", ""))
    for each in pod.get("status", {}).get("conditions") or ():
        if each["type"] == told_by and each["status"] == "False":
            return Waiting(each.get("reason", each["type"]), each.get("message", ""), since)
    return None


def _trouble_itself(reason: str, message: str) -> tuple[str, str]:
    """Return a reason and a message, those of the pull that failed while the kubelet waits for the next one.

    It tells the two in turns for ever, and a status that followed it would never come to rest.
    """
    told = _BACK_OFF.fullmatch(message) if reason == "ImagePullBackOff" else None
    return (told["reason"], told["cause"]) if told is not None else (reason, message)


def target(
    deployment: Json,
    pods: Sequence[Json],
    *,
    facts: TargetFacts | TargetProblem,
    autoscaler: str | None,
) -> TargetObserved:
    """Return the Deployment that serves.

    Args:
        deployment: It.
        pods: Those that its selector picks; the canary's may be among them.
        facts: What its manifest says.
        autoscaler: The name of what scales it, if anything does.
    """
    data, status = deployment["metadata"], deployment.get("status", {})
    progressing = _progressing(deployment)
    overlay = _overlay(deployment["spec"]["template"])
    newest = [
        pod for pod in pods if _overlay(pod) == overlay and names.CANARY_LABEL not in pod["metadata"].get("labels", {})
    ]
    return TargetObserved(
        name=data["name"],
        uid=data["uid"],
        resource_version=data["resourceVersion"],
        replicas=deployment["spec"]["replicas"],
        total=status.get("replicas", 0),
        ready=status.get("readyReplicas", 0),
        updated=status.get("updatedReplicas", 0),
        available=status.get("availableReplicas", 0),
        current=is_current(deployment),
        facts=facts,
        paused=deployment["spec"].get("paused", False),
        deadline_exceeded=_deadline_exceeded(progressing),
        progressed_at=moment(progressing["lastUpdateTime"]) if progressing else None,
        autoscaler=autoscaler,
        trouble=trouble(newest) or _without_pods(deployment),
    )


def autoscaler(name: str, autoscalers: Sequence[Json], scaled_objects: Sequence[Json]) -> str | None:
    """Return what scales the Deployment of that name, as `HorizontalPodAutoscaler qwen`; None where nothing does."""
    for kind, found in (("ScaledObject", scaled_objects), ("HorizontalPodAutoscaler", autoscalers)):
        for each in found:
            ref = each["spec"]["scaleTargetRef"]
            # KEDA's kind may be left out and is then a Deployment.
            if ref["name"] == name and ref.get("kind", "Deployment") == "Deployment":
                return f"{kind} {each['metadata']['name']}"
    return None


def claimant(resource: Json, others: Sequence[Json]) -> str | None:
    """Return the name of the oldest QuantizedModel that names the same target, if that is another one."""
    target = _target_name(resource)
    claims = [each for each in others if _target_name(each) == target and "deletionTimestamp" not in each["metadata"]]
    oldest = min(claims, key=_age, default=resource)
    return str(oldest["metadata"]["name"]) if _age(oldest) < _age(resource) else None


def _age(resource: Json) -> tuple[datetime, str]:
    return moment(resource["metadata"]["creationTimestamp"]), resource["metadata"]["name"]


def _target_name(resource: Json) -> str | None:
    rollout = resource["spec"].get("rollout")
    return rollout["targetRef"]["name"] if rollout else None


def _overlay(templated: Json) -> str:
    """Return the checkpoint's annotation on a pod or a pod template."""
    return str(templated.get("metadata", {}).get("annotations", {}).get(names.CHECKPOINT_ANNOTATION, ""))
