"""The provisioner of the storage class: a folder for each claim, removed with the claim.

It runs beside the kubelet as one of the node's programs. It looks once a second instead of watching: a cluster for one
developer has a handful of claims, and a look can't miss anything.
"""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from kubernetes import client, config
from saffron_dev.cluster.settings import PROVISIONER, STORAGE_CLASS

_PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
_WANTS_PROVISIONER = "volume.kubernetes.io/storage-provisioner"
_INTERVAL_SECONDS = 1.0


def volume_for(claim: Any, root: Path) -> dict[str, Any]:  # noqa: ANN401 - the client's models have no types
    """Return the PersistentVolume for a claim."""
    name = f"pvc-{claim.metadata.uid}"
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {_PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "storageClassName": STORAGE_CLASS,
            "accessModes": list(claim.spec.access_modes),
            "capacity": {"storage": claim.spec.resources.requests["storage"]},
            "persistentVolumeReclaimPolicy": "Delete",
            "hostPath": {"path": str(folder_of(name, root)), "type": "Directory"},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim.metadata.namespace,
                "name": claim.metadata.name,
                "uid": claim.metadata.uid,
            },
        },
    }


def folder_of(volume: str, root: Path) -> Path:
    """Return the folder of a volume."""
    return root / volume


def is_wanted(claim: Any) -> bool:  # noqa: ANN401
    """Tell whether a claim waits for a volume from us."""
    asked = (claim.metadata.annotations or {}).get(_WANTS_PROVISIONER)
    return asked == PROVISIONER and claim.status.phase == "Pending" and not claim.metadata.deletion_timestamp


def is_released(volume: Any) -> bool:  # noqa: ANN401
    """Tell whether a volume is ours and its claim is gone."""
    ours = (volume.metadata.annotations or {}).get(_PROVISIONED_BY) == PROVISIONER
    return ours and volume.status.phase in {"Released", "Failed"}


def provision(core: client.CoreV1Api, root: Path) -> None:
    """Make what is missing and remove what nobody holds any more."""
    volumes = {volume.metadata.name: volume for volume in core.list_persistent_volume().items}
    for claim in core.list_persistent_volume_claim_for_all_namespaces().items:
        wanted = volume_for(claim, root) if is_wanted(claim) else None
        if wanted is not None and wanted["metadata"]["name"] not in volumes:
            folder = Path(wanted["spec"]["hostPath"]["path"])
            folder.mkdir(parents=True, exist_ok=True)
            # Pods run as users that we can't know, and fsGroup does nothing for a host's folder.
            folder.chmod(0o777)
            core.create_persistent_volume(wanted)
            print(f"made {folder} for claim {claim.metadata.namespace}/{claim.metadata.name}", flush=True)
    for name, volume in volumes.items():
        if is_released(volume):
            folder = folder_of(name, root)
            if folder.exists():
                shutil.rmtree(folder)
            core.delete_persistent_volume(name)
            print(f"removed {folder}", flush=True)


def main() -> None:
    """Provision for ever: `python -m saffron_dev.cluster.volumes KUBECONFIG FOLDER`."""
    with config.new_client_from_config(sys.argv[1]) as api:
        core = client.CoreV1Api(api)
        while True:
            provision(core, Path(sys.argv[2]))
            time.sleep(_INTERVAL_SECONDS)


if __name__ == "__main__":
    main()
