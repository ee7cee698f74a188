"""The three claims, and how the model and the data set get onto the first of them."""

import subprocess
import tarfile
from pathlib import Path

from saffron_dev.demo.kubectl import Kubectl, Manifest
from saffron_dev.demo.pods import USER, claim_volume, pod_spec
from saffron_dev.errors import DevError

MODELS = "models"
CHECKPOINTS = "checkpoints"
WORKSPACE = "saffron-work"
LOADER = "loader"


def claims(storage_class: str) -> list[Manifest]:
    """Originals and data; checkpoints, which serving pods mount; the workspace, which they never do."""
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "storageClassName": storage_class,
                "resources": {"requests": {"storage": size}},
            },
        }
        for name, size in ((MODELS, "2Gi"), (CHECKPOINTS, "4Gi"), (WORKSPACE, "4Gi"))
    ]


def loader(image: str) -> Manifest:
    """A pod that puts files onto `models` and lists those on `checkpoints`; it ends by itself after two hours."""
    container = {
        "name": "loader",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "7200"],
        "volumeMounts": [
            {"name": MODELS, "mountPath": f"/{MODELS}"},
            {"name": CHECKPOINTS, "mountPath": f"/{CHECKPOINTS}", "readOnly": True},
        ],
    }
    volumes = [claim_volume(MODELS, read_only=False), claim_volume(CHECKPOINTS, read_only=True)]
    spec = {**pod_spec(container, volumes), "restartPolicy": "Never"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": LOADER},
        # A process that ignores SIGTERM as pid 1 would be waited for.
        "spec": {**spec, "terminationGracePeriodSeconds": 1},
    }


def put(kubectl: Kubectl, source: Path, name: str) -> None:
    """Copy a file or a folder to the root of the claim, under another name, readable by all.

    Raises:
        DevError: The copy did not arrive whole.
    """
    command = kubectl.command("exec", "--stdin", LOADER, "--", "tar", "--extract", f"--directory=/{MODELS}")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        stdin, stderr = process.stdin, process.stderr
        if stdin is None or stderr is None:
            raise AssertionError("Popen was asked for both pipes")
        try:
            with stdin, tarfile.open(fileobj=stdin, mode="w|") as archive:
                archive.add(source, arcname=name, filter=_readable)
        except BrokenPipeError:
            pass  # kubectl ended early; what it says is raised below
        said = stderr.read().decode(errors="replace").strip()
    if process.returncode != 0:
        raise DevError(f"{source} could not be copied to the claim {MODELS}: {said}")


def cpu_flags(kubectl: Kubectl) -> frozenset[str]:
    """Return the CPU flags of the node that the loader runs on."""
    for line in kubectl.run("exec", LOADER, "--", "cat", "/proc/cpuinfo").splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    raise DevError("The node's /proc/cpuinfo names no flags; the demo needs an x86-64 node.")


def weights(kubectl: Kubectl, claim: str, folder: str) -> dict[str, int]:
    """Return the bytes of each safetensors file in a folder of a claim that the loader mounts."""
    listing = kubectl.run(
        *("exec", LOADER, "--", "find", f"/{claim}/{folder}", "-name", "*.safetensors", "-printf", "%s %P\\n")
    )
    return {name: int(size) for size, name in (line.split(" ", 1) for line in listing.splitlines())}


def _readable(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = USER
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() else 0o644
    return member
