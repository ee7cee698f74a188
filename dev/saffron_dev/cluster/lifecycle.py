"""Start, find and end the cluster from the host's side."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn

from saffron_dev import components, pki
from saffron_dev.binaries import ADDONS, CONTAINERD, KUBERNETES, binaries
from saffron_dev.cluster import cgroups, imagestore, render, requirements, settings
from saffron_dev.cluster.node import NodePlan
from saffron_dev.cluster.requirements import SEARCH_PATH, find_program
from saffron_dev.cluster.settings import Folders
from saffron_dev.disk import require_free_space
from saffron_dev.errors import DevError
from saffron_dev.progress import say, tail
from saffron_dev.supervise import die_with_parent

# An empty cluster's images, etcd and logs; the images that are loaded come on top and are checked when built.
_UP_GIGABYTES = 2
_DOWN_SECONDS = 60
_LINK_SECONDS = 5

_USERS = {
    "kubelet": (f"system:node:{settings.NODE_NAME}", ("system:nodes",)),
    "kube-proxy": ("system:kube-proxy", ()),
    "coredns": ("saffron-dev-coredns", ()),
}

_API_HOSTS = (
    settings.NODE_ADDRESS,
    settings.API_SERVICE_ADDRESS,
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


def up(folders: Folders, *, install: bool, foreground: bool) -> None:
    """Start the cluster, and return when its node is Ready and its DNS answers.

    Args:
        folders: What it keeps.
        install: Whether missing Debian packages may be installed.
        foreground: Stay until Ctrl-C or SIGTERM, and end the cluster then. The cluster also ends if this process is
            killed.

    Raises:
        DevError: The machine lacks something, or a program did not come up.
    """
    requirements.require_root("saffron-dev up")
    if running_process(folders) is not None:
        say(f"The cluster is already up: export KUBECONFIG={folders.kubeconfig}")
        return
    requirements.require_tools(requirements.CLUSTER_TOOLS, install=install)
    _wait_for_end_of_link()
    requirements.require_free_addresses()
    programs = binaries(*KUBERNETES.programs, *CONTAINERD.programs, *ADDONS.programs)
    require_free_space(folders.root, _UP_GIGABYTES, "to run an empty cluster")
    requirements.require_plain_disk(folders.root)
    begun = time.monotonic()
    with _locked(folders) as lock:
        cgroups.remove()  # a cluster that was killed could not do it
        _prepare(folders)
        process = _spawn(folders, programs, lock, dies_with_us=foreground)
    try:
        _follow(process, folders)
    except BaseException:
        down(folders)
        raise
    say(f"The cluster is up after {time.monotonic() - begun:.0f} s: export KUBECONFIG={folders.kubeconfig}")
    if foreground:
        _stay(process, folders)


def down(folders: Folders) -> bool:
    """End the cluster and remove what the kernel does not remove by itself; returns whether there was one.

    Raises:
        DevError: Its processes did not end.
    """
    requirements.require_root("saffron-dev down")
    process = running_process(folders)
    if process is not None:
        init = init_process(process)
        _signal(init or process, signal.SIGTERM if init else signal.SIGKILL)
        deadline = time.monotonic() + _DOWN_SECONDS
        while running_process(folders) is not None:
            if time.monotonic() > deadline:
                _signal(process, signal.SIGKILL)
            time.sleep(0.1)
    _wait_for_end_of_link()
    if not _link_exists():  # else another user's cluster runs, and the folders are its
        cgroups.remove()
    return process is not None


def purge(folders: Folders) -> None:
    """Remove all that the cluster keeps: objects, images, volumes, keys and logs."""
    if folders.root.exists():
        shutil.rmtree(folders.root)


def running_process(folders: Folders) -> int | None:
    """Return the host's id of the process whose end is the cluster's end, or None where no cluster runs."""
    if not folders.lock.exists():
        return None
    with folders.lock.open() as file:
        locked = not _try_lock(file, fcntl.LOCK_SH)
        content = file.read()
    if not locked:
        return None
    if not content:
        raise DevError("The cluster is just being started; try again in a moment.")
    return int(content)


def init_process(process: int) -> int | None:
    """Return the host's id of the first process inside the namespaces, or None where it is gone."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except FileNotFoundError:
        return None
    return int(children[0]) if children else None


def importer(folders: Folders) -> list[str]:
    """Return the command that imports an archive on standard input as an image for the kubelet.

    Raises:
        DevError: No cluster runs.
    """
    return [*_inside(folders), *imagestore.import_command(binaries("ctr")["ctr"])]


def stored_images(folders: Folders) -> list[str]:
    """Return the names of the images that the kubelet can start.

    Raises:
        DevError: No cluster runs, or its image store does not answer.
    """
    command = [*_inside(folders), *imagestore.ctr(binaries("ctr")["ctr"], "images", "list", "--quiet")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DevError(f"The cluster's image store does not answer: {done.stderr.strip()}")
    return [name for name in done.stdout.split() if not name.startswith("sha256:")]


def _inside(folders: Folders) -> list[str]:
    """Return the beginning of a command line that runs its rest where containerd's socket can be seen."""
    process = running_process(folders)
    init = init_process(process) if process is not None else None
    if init is None:
        raise DevError("No cluster runs here. Start one with `saffron-dev up`.")
    return [str(find_program("nsenter")), "--target", str(init), "--mount", "--"]


def _prepare(folders: Folders) -> None:
    """Write what the programs read. Keys are made once, so that tokens and kubeconfig files stay good."""
    for folder in (folders.config, folders.containerd, folders.kubelet, folders.volumes, folders.log):
        folder.mkdir(parents=True, exist_ok=True)
    layout = folders.layout()
    if not folders.kubeconfig.exists():
        components.write_credentials(layout, _API_HOSTS, _USERS)
        pki.write_private(folders.kubeconfig, layout.kubeconfig("admin").read_text())
    network_plugin = find_program("ptp")
    if network_plugin is None:
        raise DevError("the network plugin `ptp` has gone since it was checked for")
    containerd = render.containerd_config(
        folders,
        network_plugin.parent,
        str(find_program("runc")),
        may_lower_oom_score=requirements.may_lower_oom_score(Path("/proc/self/status").read_text()),
    )
    for name, content in render.config_files(folders, containerd).items():
        path = folders.config / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    cgroups.create()


@contextmanager
def _locked(folders: Folders) -> Iterator[IO[str]]:
    """Hold the lock; whoever inherits the open file goes on holding it."""
    with folders.lock.open("a+") as file:
        if not _try_lock(file, fcntl.LOCK_EX):
            raise DevError("Another `saffron-dev up` is at work; wait for it.")
        file.truncate(0)
        yield file


def _try_lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _spawn(
    folders: Folders, programs: dict[str, Path], lock: IO[str], *, dies_with_us: bool
) -> "subprocess.Popen[str]":
    """Start the cluster's first process. The lock is held until it and the first one inside have ended."""
    plan = NodePlan(
        root=str(folders.root),
        binaries={name: str(path) for name, path in programs.items()},
        # containerd looks for its shim here.
        search_path=os.pathsep.join((str(programs["containerd-shim-runc-v2"].parent), SEARCH_PATH)),
    )
    namespaces = ("--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc")
    with (folders.log / "node.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(str(find_program("unshare")), *namespaces),
                *(sys.executable, "-P", "-m", "saffron_dev.cluster.node", plan.to_json()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd="/",
            start_new_session=True,
            pass_fds=[lock.fileno()],
            preexec_fn=die_with_parent if dies_with_us else None,  # noqa: PLW1509 - the command line has one thread
        )
    lock.write(str(process.pid))
    lock.flush()
    return process


def _follow(process: "subprocess.Popen[str]", folders: Folders) -> None:
    """Tell how far the node is until it is ready, and connect it to the host when it waits for that.

    Raises:
        DevError: It ended before it was ready.
    """
    if process.stdout is None:
        raise TypeError("the node was started without a pipe")
    begun = time.monotonic()
    for line in process.stdout:
        message = json.loads(line)
        if message.get("ready"):
            return
        if "failed" in message:
            raise DevError(f"The cluster did not come up: {message['failed']}")
        say(f"{time.monotonic() - begun:5.1f} s  {message['step']}")
        if message["step"] == "network":
            _connect(process.pid)
    raise DevError(f"The cluster ended while it came up. The end of its log:\n{tail(folders.log / 'node.log')}")


def _connect(process: int) -> None:
    """Lay the link from the host into the cluster; it and its routes go when the cluster's namespace goes."""
    init = init_process(process)
    if init is None:
        raise DevError("The cluster ended before it could be connected.")
    link, peer = settings.HOST_LINK, settings.NODE_LINK
    for command in (
        ("link", "add", link, "type", "veth", "peer", "name", peer, "netns", str(init)),
        ("address", "add", f"{settings.HOST_ADDRESS}/{settings.LINK_PREFIX}", "dev", link),
        ("link", "set", link, "up"),
        ("route", "add", settings.POD_RANGE, "via", settings.NODE_ADDRESS),
        ("route", "add", settings.SERVICE_RANGE, "via", settings.NODE_ADDRESS),
    ):
        done = subprocess.run([str(find_program("ip")), *command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DevError(f"`ip {' '.join(command)}` failed: {done.stderr.strip()}")


def _link_exists() -> bool:
    return (Path("/sys/class/net") / settings.HOST_LINK).exists()


def _wait_for_end_of_link() -> None:
    """Give the kernel the moment that it takes to remove the link after the last process has ended."""
    deadline = time.monotonic() + _LINK_SECONDS
    while _link_exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def _stay(process: "subprocess.Popen[str]", folders: Folders) -> None:
    """Wait for the cluster's end, or bring it about when we are asked to end."""

    def stop(_signal: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    say("Ctrl-C ends it.")
    try:
        last_words = process.stdout.read() if process.stdout is not None else ""
    except KeyboardInterrupt:
        say("Ending the cluster.")
        down(folders)
        return
    process.wait()
    down(folders)
    reason = json.loads(last_words)["failed"] if last_words else f"Its logs are in {folders.log}."
    raise DevError(f"The cluster ended by itself. {reason}")


def _signal(process: int, number: signal.Signals) -> None:
    """Send a signal to one of the cluster's two first processes, if it is still that."""
    try:
        is_ours = b"saffron_dev.cluster.node" in Path(f"/proc/{process}/cmdline").read_bytes()
        if is_ours:
            os.kill(process, number)
    except (FileNotFoundError, ProcessLookupError):  # it has just ended, which is what we want
        return
