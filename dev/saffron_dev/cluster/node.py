"""The first process inside the cluster's namespaces: it makes the machine look as a node should and runs everything.

Run as `unshare --mount --pid --net --fork --kill-child --mount-proc python -m saffron_dev.cluster.node`, with the
plan from `saffron_dev.cluster.lifecycle` as its argument. Lines of JSON on standard output tell how far it is. When
this process ends, the kernel ends all processes of the cluster and with them its mounts, devices and rules.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from saffron_dev import components
from saffron_dev.cluster import imagestore, render, settings
from saffron_dev.cluster.settings import Folders
from saffron_dev.progress import tail
from saffron_dev.supervise import Group, ProgramEndedError, StoppedError, report

_LINK_SECONDS = 30
_READY_SECONDS = 120
_WATCH_SECONDS = 0.5

# The kubelet wants these, and would set them for the whole machine, where they would stay when the cluster is gone.
# Inside our mount namespace it finds files that say so already.
_KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


@dataclass(frozen=True)
class NodePlan:
    """What the outside tells the node."""

    root: str
    """Folder that the cluster keeps."""
    binaries: dict[str, str]
    """Name -> path."""
    search_path: str
    """PATH for the programs, which start runc, iptables and containerd's shim."""

    def to_json(self) -> str:
        """Return the plan as the node reads it."""
        return json.dumps(asdict(self))


class NodeError(Exception):
    """The node can't be made; the message says why."""


def run(plan: NodePlan) -> int:
    """Bring the node up and hold it until it is told to stop; returns the exit code."""
    folders = Folders(Path(plan.root))
    binaries = {name: Path(path) for name, path in plan.binaries.items()}
    group = Group(folders.root, stopped=lambda: False)
    try:
        _mount(folders)
        _connect()
        for program in components.control_plane_programs(folders.layout(), binaries, with_nodes=True):
            report({"step": program.name})
            group.start(program)
        _run_node(group, folders, binaries)
        report({"ready": True})
        while True:
            group.check()
            time.sleep(_WATCH_SECONDS)
    except ProgramEndedError as error:
        report({"failed": f"{error}. The end of its log:\n{tail(folders.root / 'log' / f'{error.name}.log')}"})
        return 1
    except (NodeError, OSError) as error:
        report({"failed": str(error)})
        return 1
    except StoppedError:
        return 0
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        group.stop()


def _run_node(group: Group, folders: Folders, binaries: dict[str, Path]) -> None:
    """Start the node's part, each program after what it needs."""
    kubectl = _kubectl(folders, binaries["kubectl"])
    # A Node of an earlier start still says Ready, and the kubelet clears the fake GPUs of one that it knows.
    kubectl("delete", "node", settings.NODE_NAME, "--ignore-not-found")
    kubectl("apply", "--filename", str(Path(__file__).with_name("manifests.yaml")))
    report({"step": "containerd"})
    group.start(render.containerd_program(folders, binaries))
    _import_pause_image(group, binaries)
    provisioner = (
        *(sys.executable, "-P", "-m", "saffron_dev.cluster.volumes"),
        *(str(folders.kubeconfig), str(folders.volumes)),
    )
    for program in render.node_programs(folders, binaries, provisioner):
        report({"step": program.name})
        group.start(program)
    report({"step": "node ready"})
    node = f"node/{settings.NODE_NAME}"
    kubectl("wait", node, "--for=create", f"--timeout={_READY_SECONDS}s")
    kubectl("wait", node, "--for=condition=Ready", f"--timeout={_READY_SECONDS}s")
    kubectl("patch", node, "--subresource=status", "--type=json", f"--patch={_fake_gpus()}")
    _wait_for_dns(group)


def _fake_gpus() -> str:
    """Return the JSON patch that gives the node GPUs which are only counted."""
    return json.dumps(
        [
            {
                "op": "add",
                "path": f"/status/{part}/nvidia.com~1gpu",
                "value": str(settings.FAKE_GPUS),
            }
            for part in ("capacity", "allocatable")
        ]
    )


def _mount(folders: Folders) -> None:
    """Give the node a /run and a /var/log of its own, and kernel settings that look as the kubelet wants them."""
    _command("mount", "--make-rprivate", "/")
    _command("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    _command("mount", "--bind", str(folders.log), "/var/log")
    for name, value in _KERNEL_SETTINGS.items():
        target = Path("/proc/sys") / name
        if target.exists():
            file = Path("/run/saffron-kernel") / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(value + "\n")
            _command("mount", "--bind", str(file), str(target))


def _connect() -> None:
    """Bring up the devices; the outside puts the inner end of the link here when it hears that we wait."""
    _command("ip", "link", "set", "lo", "up")
    report({"step": "network"})
    deadline = time.monotonic() + _LINK_SECONDS
    while not (Path("/proc/sys/net/ipv4/conf") / settings.NODE_LINK).exists():
        if time.monotonic() > deadline:
            raise NodeError(f"no device {settings.NODE_LINK} appeared within {_LINK_SECONDS} s")
        time.sleep(0.05)
    address = f"{settings.NODE_ADDRESS}/{settings.LINK_PREFIX}"
    _command("ip", "address", "add", address, "dev", settings.NODE_LINK)
    _command("ip", "link", "set", settings.NODE_LINK, "up")
    _command("ip", "route", "add", "default", "via", settings.HOST_ADDRESS)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")


def _import_pause_image(group: Group, binaries: dict[str, Path]) -> None:
    """Load the image that holds a pod's namespaces open, as soon as containerd answers."""
    _wait(group, "containerd to answer", lambda: _succeeds(imagestore.ctr(binaries["ctr"], "version")))
    archive = imagestore.archive_of_one_program(binaries["pause"], settings.PAUSE_IMAGE)
    done = subprocess.run(
        imagestore.import_command(binaries["ctr"]),
        input=archive,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise NodeError(f"the pause image could not be imported: {done.stderr.decode(errors='replace')}")


def _wait_for_dns(group: Group) -> None:
    """Wait until a connection to the DNS Service arrives, through kube-proxy's rules, at CoreDNS."""

    def connects() -> bool:
        try:
            with socket.create_connection((settings.DNS_SERVICE_ADDRESS, 53), timeout=1):
                return True
        except OSError:
            return False

    _wait(group, "the DNS service to answer", connects)


def _wait(group: Group, what: str, succeeds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not succeeds():
        group.check()
        if time.monotonic() > deadline:
            raise NodeError(f"waited {_READY_SECONDS} s in vain for {what}")
        time.sleep(0.1)


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _kubectl(folders: Folders, binary: Path) -> Callable[..., None]:
    def call(*arguments: str) -> None:
        _command(str(binary), f"--kubeconfig={folders.kubeconfig}", *arguments)

    return call


def _command(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NodeError(f"`{' '.join(command)}` failed inside the cluster: {done.stderr.strip()}")


def _stop(_signal: int, _frame: object) -> NoReturn:
    raise StoppedError


def _reap(worker: int) -> int:
    """Be the namespace's init: bury every orphan, pass on the request to stop, end with the worker."""
    signal.signal(signal.SIGTERM, lambda *_: os.kill(worker, signal.SIGTERM))
    while True:
        process, status = os.wait()
        if process == worker:
            return os.waitstatus_to_exitcode(status)


def main() -> int:
    """Fork: the first process of a PID namespace must bury orphans, which would take others' exit codes away."""
    plan = NodePlan(**json.loads(sys.argv[1]))
    os.environ["PATH"] = plan.search_path
    worker = os.fork()
    if worker:
        return _reap(worker)
    signal.signal(signal.SIGTERM, _stop)
    return run(plan)


if __name__ == "__main__":
    sys.exit(main())
