"""The overlay: the checkpoint, mounted over the path that the server already reads, and nothing else.

Volume, volumeMount and annotation are all that Saffron ever sets on a Deployment that it did not make.
"""

from dataclasses import dataclass
from typing import Any

from saffron_operator.names import CHECKPOINT_ANNOTATION, CHECKPOINT_VOLUME
from saffron_operator.observed import ResourceMeta, TargetObserved


@dataclass(frozen=True)
class Checkpoint:
    """What is mounted.

    Attributes:
        run: The run that made it. With `candidate` for people, and for the day that the status is lost.
        digest: Of the checkpoint: the name of its folder.
        claim: That holds it.
        path: The folder of the claim that holds all checkpoints.
    """

    run: str
    candidate: str
    digest: str
    claim: str
    path: str

    @property
    def annotation(self) -> dict[str, str]:
        """For the pod template."""
        return {CHECKPOINT_ANNOTATION: f"{self.run}/{self.candidate}/{self.digest}"}

    @property
    def volume(self) -> dict[str, Any]:
        """The claim."""
        return {"name": CHECKPOINT_VOLUME, "persistentVolumeClaim": {"claimName": self.claim, "readOnly": True}}

    def mount(self, model_path: str) -> dict[str, Any]:
        """Return the mount over the path that the server reads."""
        sub_path = f"{self.path}/{self.digest}"
        return {"name": CHECKPOINT_VOLUME, "mountPath": model_path, "subPath": sub_path, "readOnly": True}


def applied(
    meta: ResourceMeta, target: TargetObserved, container: str, model_path: str, checkpoint: Checkpoint
) -> dict[str, Any]:
    """Return what is applied to the target to serve a checkpoint."""
    mount = checkpoint.mount(model_path)
    template = {
        "metadata": {"annotations": checkpoint.annotation},
        "spec": {
            "volumes": [checkpoint.volume],
            "containers": [{"name": container, "volumeMounts": [mount]}],
        },
    }
    return _deployment(meta, target) | {"spec": {"template": template}}


def removed(meta: ResourceMeta, target: TargetObserved) -> dict[str, Any]:
    """Return what is applied to the target to take the overlay away: nothing."""
    return _deployment(meta, target)


def _deployment(meta: ResourceMeta, target: TargetObserved) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": target.name,
            "namespace": meta.namespace,
            "uid": target.uid,
            "resourceVersion": target.resource_version,
        },
    }
