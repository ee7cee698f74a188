"""The names, labels and annotations that Saffron puts on objects and reads back from them."""

from saffron_api.keys import digest
from saffron_api.results import Stage

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "saffron"
RESOURCE_LABEL = "saffron.dev/quantizedmodel"
STAGE_LABEL = "saffron.dev/stage"
CANDIDATE_LABEL = "saffron.dev/candidate"
CANARY_LABEL = "saffron.dev/canary-of"
"""The only label in a canary's selector; its value is the target's name."""

JOB_LABEL = "batch.kubernetes.io/job-name"
"""On a pod, by Kubernetes: its Job. It stays there when the Job is gone."""

KEY_ANNOTATION = "saffron.dev/key"
"""On a Job: what it works on, in full. A Job is ours only if this and the owner match."""
RUN_ANNOTATION = "saffron.dev/run"
"""On a Job: the run that made it. Another run tries again what failed."""
ATTEMPT_ANNOTATION = "saffron.dev/attempt"
"""On a Job: 1, or more where earlier Jobs of the same key ended without a readable result."""
RESULT_ANNOTATION = "saffron.dev/result"
"""On a Job: the message that its pod left. Pods go with their nodes, and a result must not."""
TEMPLATE_ANNOTATION = "saffron.dev/template"
"""On a canary: the digest of the target's pod template that it was built from."""
CHECKPOINT_ANNOTATION = "saffron.dev/checkpoint"
"""On a pod template that serves a checkpoint: `<run>/<candidate>/<checkpoint digest>`."""

PROMOTE_ANNOTATION = "saffron.dev/promote"
"""On a QuantizedModel, by a person: `<run>/<checkpoint digest>/<weight of the step>`, which approves just that step."""
ABORT_ANNOTATION = "saffron.dev/abort"
RETRY_ANNOTATION = "saffron.dev/retry"
"""On a QuantizedModel, by a person; the value is the id of the run that is meant, so that none outlives its run."""

CHECKPOINT_VOLUME = "saffron-checkpoint"
FIELD_MANAGER = "saffron.dev"
"""Holds our own objects and the status."""


def overlay_manager(uid: str) -> str:
    """Return the field manager that holds the overlay of the QuantizedModel of this uid on its target."""
    return f"{FIELD_MANAGER}-{uid}"


_LONGEST_JOB_NAME = 60
_DIGITS = 8
"""Of a key, at the end of a Job's name."""


def job_name(resource: str, stage: Stage, candidate: str | None, key: str, attempt: int) -> str:
    """Return a Job's name, of at most 60 characters.

    It is what its pods are labelled with. With a dash and a number after it, it is the host name of each where there
    are several, which may have 63.

    Args:
        resource: The QuantizedModel's name; what is too long of it is cut. Two of one plan have the same keys, so
            what is cut counts in the last part of the name.
        stage: What the Job does.
        candidate: What it is done to, of at most 14 characters, or None.
        key: The Job's full key.
        attempt: From 1. A later attempt has another name, so that it does not wait for the removal of the one before.
    """
    what = "-".join(part for part in (stage.value, candidate) if part)
    head = resource[: _LONGEST_JOB_NAME - len(what) - _DIGITS - 2].rstrip("-")
    told = key if (head, attempt) == (resource, 1) else digest({"key": key, "attempt": attempt, "resource": resource})
    return f"{head}-{what}-{told[:_DIGITS]}"


def work_in(job: str) -> str:
    """Return the part of a Job's name that tells key and attempt: the same for all candidates of one recipe."""
    return job[-_DIGITS:]


def canary_name(target: str) -> str:
    """Return the name of a target's canary Deployment."""
    return f"{target}-saffron"
