"""Read everything that one pass needs, mostly side by side. Nothing is kept from one pass to the next.

A read without a resourceVersion is answered from what etcd agrees on, so a pass sees every write of the one before.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from saffron_api.quantized_model import QuantizedModelSpec, QuantizedModelStatus
from saffron_operator import job_reading, names, reading
from saffron_operator import target as targets
from saffron_operator.client import Cluster, Object
from saffron_operator.errors import ApiError, RefusedError
from saffron_operator.metrics import StageSeconds
from saffron_operator.observed import (
    CanaryObserved,
    JobObserved,
    Leaving,
    Memory,
    Observed,
    ResourceMeta,
    SpecError,
    TargetObserved,
)
from saffron_operator.queue import Key
from saffron_operator.resources import AUTOSCALERS, DEPLOYMENTS, EVENTS, JOBS, PODS, QUANTIZED_MODELS, SCALED_OBJECTS

log = logging.getLogger(__name__)

_NOT_FOUND = 404


@dataclass(frozen=True)
class Seen:
    """What `decide` looks at, and beside it what `act` and the metrics need.

    Attributes:
        observed: For `decide`.
        status: The status as it stands; None where it can't be read.
        stages: What finished Jobs took.
    """

    observed: Observed
    status: QuantizedModelStatus | None
    stages: tuple[StageSeconds, ...]


@dataclass(frozen=True)
class Unseen:
    """A QuantizedModel, where the API server refuses to show what belongs to it.

    Attributes:
        status: As in `Seen`.
        error: What the API server said.
    """

    meta: ResourceMeta
    spec: QuantizedModelSpec | SpecError
    status: QuantizedModelStatus | None
    error: RefusedError


async def observe(cluster: Cluster, key: Key, *, quantizer_image: str) -> Seen | Unseen | None:
    """Read one QuantizedModel and all that belongs to it; None where it is gone.

    Raises:
        ApiError: A read failed otherwise than by a refusal, or the QuantizedModel itself can't be read.
    """
    resource = await cluster.get(QUANTIZED_MODELS, key.namespace, key.name)
    if resource is None:
        return None
    meta, spec, status = reading.meta(resource), reading.spec(resource), _status(resource, key)
    try:
        jobs, rollout = await asyncio.gather(_jobs(cluster, key, resource), _rollout(cluster, resource, spec))
    except RefusedError as error:
        return Unseen(meta, spec, status, error)
    observed = Observed(
        meta=meta,
        spec=spec,
        memory=Memory.of(status) if status is not None else Memory(),
        quantizer_image=quantizer_image,
        jobs=jobs.jobs,
        leaving=jobs.leaving,
        target=rollout.target,
        canary=rollout.canary,
        claimant=rollout.claimant,
    )
    return Seen(observed, status, jobs.stages)


def _status(resource: Object, key: Key) -> QuantizedModelStatus | None:
    """Return the status; None where it can't be read, which is treated like one that was lost."""
    try:
        return QuantizedModelStatus.model_validate(resource.get("status", {}))
    except ValidationError as error:
        fields = [".".join(map(str, each["loc"])) for each in error.errors()]
        log.warning("status not readable", extra={"fields": {"key": "/".join(key), "at": ", ".join(fields)}})
        return None


@dataclass(frozen=True)
class _Jobs:
    jobs: tuple[JobObserved, ...]
    leaving: tuple[Leaving, ...]
    stages: tuple[StageSeconds, ...]


async def _jobs(cluster: Cluster, key: Key, resource: Object) -> _Jobs:
    ours = f"{names.RESOURCE_LABEL}={key.name}"
    jobs, unlabelled = await asyncio.gather(
        cluster.list_all(JOBS, key.namespace, labels=ours),
        # Somebody else's Job may have the name that one of ours is to get.
        cluster.list_all(JOBS, key.namespace, labels=f"!{names.RESOURCE_LABEL}", only_metadata=True),
    )
    # After the Jobs: one that is complete by now must not be looked at with a pod that still runs, as if it had ended
    # without a word.
    pods = await cluster.list_all(PODS, key.namespace, labels=ours)
    lacking = [each for each in jobs if job_reading.lacks_pods(each, pods)]
    events = await asyncio.gather(*(_unmade_pods(cluster, key.namespace, each["metadata"]["uid"]) for each in lacking))
    told = {each["metadata"]["uid"]: found for each, found in zip(lacking, events, strict=True)}
    foreign = [each["metadata"] for each in unlabelled if each["metadata"]["name"].startswith(f"{key.name}-")]
    seconds = (job_reading.stage_seconds(each) for each in jobs)
    return _Jobs(
        (
            *(job_reading.job(each, pods, told.get(each["metadata"]["uid"], ()), resource) for each in jobs),
            *(job_reading.foreign_job(each) for each in foreign),
        ),
        job_reading.leaving(jobs, pods),
        tuple(each for each in seconds if each is not None),
    )


async def _unmade_pods(cluster: Cluster, namespace: str, job: str) -> Sequence[Object]:
    """Return the events that tell why pods of the Job of this uid could not be made: no condition of a Job does."""
    return await cluster.list_all(EVENTS, namespace, fields=f"regarding.uid={job},reason=FailedCreate")


@dataclass(frozen=True)
class _Rollout:
    target: TargetObserved | None = None
    canary: CanaryObserved | None = None
    claimant: str | None = None


async def _rollout(cluster: Cluster, resource: Object, spec: object) -> _Rollout:
    if not isinstance(spec, QuantizedModelSpec) or spec.rollout is None:
        return _Rollout()
    namespace, ref = resource["metadata"]["namespace"], spec.rollout.target_ref
    deployment, canary, others, autoscaler = await asyncio.gather(
        cluster.get(DEPLOYMENTS, namespace, ref.name),
        _canary(cluster, namespace, ref.name),
        cluster.list_all(QUANTIZED_MODELS, namespace, fields=f"spec.rollout.targetRef.name={ref.name}"),
        _autoscaler(cluster, namespace, ref.name),
    )
    found = _Rollout(
        canary=reading.canary(*canary, others) if canary is not None else None,
        claimant=reading.claimant(resource, others),
    )
    if deployment is None:
        return found
    target = reading.target(
        deployment,
        await _unready_pods(cluster, deployment),
        facts=targets.read(deployment, container=ref.container, model_uri=spec.model.uri),
        autoscaler=autoscaler,
    )
    return replace(found, target=target)


async def _canary(cluster: Cluster, namespace: str, target: str) -> tuple[Object, Sequence[Object]] | None:
    """Return the Deployment with the canary's name and the pods that are labelled as its; None where there is none."""
    deployment, pods = await asyncio.gather(
        cluster.get(DEPLOYMENTS, namespace, names.canary_name(target)),
        cluster.list_all(PODS, namespace, labels=f"{names.CANARY_LABEL}={target}"),
    )
    return None if deployment is None else (deployment, pods)


async def _unready_pods(cluster: Cluster, deployment: Object) -> Sequence[Object]:
    """Return the target's pods where one is not ready; none where all are, which saves a large answer."""
    status = deployment.get("status", {})
    if status.get("readyReplicas", 0) == status.get("replicas", 0) and reading.is_current(deployment):
        return ()
    namespace = deployment["metadata"]["namespace"]
    return await cluster.list_all(PODS, namespace, labels=_selector(deployment["spec"]["selector"]))


def _selector(selector: Object) -> str:
    """Return a label selector as the list call takes it."""
    words = {"In": "in", "NotIn": "notin"}
    equal = [f"{name}={value}" for name, value in selector.get("matchLabels", {}).items()]
    for rule in selector.get("matchExpressions", ()):
        match rule["operator"]:
            case "Exists":
                equal.append(rule["key"])
            case "DoesNotExist":
                equal.append(f"!{rule['key']}")
            case operator:
                equal.append(f"{rule['key']} {words[operator]} ({','.join(rule['values'])})")
    return ",".join(equal)


async def _autoscaler(cluster: Cluster, namespace: str, name: str) -> str | None:
    autoscalers, scaled_objects = await asyncio.gather(
        cluster.list_all(AUTOSCALERS, namespace), _scaled_objects(cluster, namespace)
    )
    return reading.autoscaler(name, autoscalers, scaled_objects)


async def _scaled_objects(cluster: Cluster, namespace: str) -> Sequence[Object]:
    """Return KEDA's objects; none where the cluster has no KEDA."""
    try:
        return await cluster.list_all(SCALED_OBJECTS, namespace)
    except ApiError as error:
        if error.status == _NOT_FOUND:
            return ()
        raise
