"""A volume that is full ends in a condition, and no partial artefact looks whole."""

import subprocess
from collections.abc import Iterator

import pytest

from saffron_dev.cluster import lifecycle
from saffron_dev.cluster.settings import folders
from saffron_dev.demo import pods, storage, tour
from saffron_dev.demo.follow import follow
from saffron_dev.demo.place import Place
from saffron_dev.demo.stopwatch import Stopwatch

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400), pytest.mark.usefixtures("engine")]

_SMALL = "small"
_MEGABYTES = 100
_MOUNT = str(folders().volumes / "small")


@pytest.fixture
def small_claim(where: Place) -> Iterator[str]:
    """A claim of a volume that lies in 100 MB of memory, inside the cluster's own mount namespace."""
    if where.settings.kubeconfig is not None:
        pytest.skip("a volume of a fixed size can be made only on a cluster of our own; KUBECONFIG names another")
    owner = f"uid={pods.USER},gid={pods.USER}"
    _in_cluster("mkdir", "-p", _MOUNT)
    _in_cluster("mount", "-t", "tmpfs", "-o", f"size={_MEGABYTES}m,mode=0755,{owner}", "none", _MOUNT)
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": _SMALL},
        "spec": {
            "capacity": {"storage": f"{_MEGABYTES}Mi"},
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "hostPath": {"path": _MOUNT},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": _SMALL},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "volumeName": _SMALL,
            "resources": {"requests": {"storage": f"{_MEGABYTES}Mi"}},
        },
    }
    where.serving.apply([volume, claim])
    yield _SMALL
    where.serving.run("delete", "persistentvolumeclaim", _SMALL)
    where.serving.run("delete", "persistentvolume", _SMALL)
    _in_cluster("umount", _MOUNT)
    _in_cluster("rmdir", _MOUNT)


def _in_cluster(*command: str) -> str:
    process = lifecycle.running_process(folders())
    assert process is not None
    enter = ("nsenter", "--target", str(lifecycle.init_process(process)), "--mount", "--")
    return subprocess.run([*enter, *command], capture_output=True, text=True, check=True).stdout


def test_a_full_volume_fails_the_candidate_with_what_is_needed_and_leaves_no_checkpoint(
    where: Place, watch: Stopwatch, small_claim: str
):
    resource = tour.example(gpu=False)
    resource["metadata"]["name"] = "full"
    del resource["spec"]["rollout"]
    resource["spec"]["candidates"] = [{"name": "rtn", "method": "RTN", "scheme": "W8A8"}]
    resource["spec"]["storage"]["checkpoints"] = {"claimName": small_claim, "path": "saffron"}
    resource["spec"]["storage"]["workspace"] = {"claimName": storage.WORKSPACE}
    where.serving.apply([resource])
    status = follow(where.serving, "full", watch, seconds=1200)
    (candidate,) = status.candidates
    (stalled,) = [condition for condition in status.conditions if condition.type == "Stalled"]
    assert (stalled.reason, candidate.state, candidate.reason) == ("NoCandidatePassed", "Failed", "StorageFull")
    assert "enlarge the claim" in (candidate.message or "")
    assert _in_cluster("find", _MOUNT, "-name", "manifest.json") == ""
    where.serving.run("delete", "quantizedmodel", "full", "--wait=true")
