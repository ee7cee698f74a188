"""A Kubernetes API without a node: real etcd, kube-apiserver, kube-controller-manager and kube-scheduler.

It needs no root. CRDs, defaulting, CEL, admission policies, RBAC, server-side apply, Leases, garbage collection,
Deployments and Jobs behave as in any cluster; pods are created and stay Pending, for no kubelet is there.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from saffron_dev import components, pki
from saffron_dev.binaries import binaries
from saffron_dev.errors import DevError
from saffron_dev.supervise import Plan

_PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
_LOOPBACK = "127.0.0.1"
_ATTEMPTS = 3


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane."""

    server: str
    """The API server's address."""
    folder: Path
    """Keys, kubeconfig files, data and logs; it goes with the control plane."""
    kubeconfig: Path
    """For a user who may do everything (group system:masters)."""
    authority: pki.Pair

    def kubeconfig_for(self, user: str, groups: tuple[str, ...] = ()) -> Path:
        """Return a kubeconfig for another user, who may do what RBAC grants that name or those groups."""
        client = pki.issue_client(self.authority, user, groups)
        text = pki.kubeconfig(self.server, self.authority.certificate, user, client)
        name = "-".join((user, *groups)).replace(":", "-").replace("/", "-")
        return pki.write_private(self.folder / "users" / f"{name}.kubeconfig", text)


@contextmanager
def control_plane() -> Iterator[ControlPlane]:
    """Start a control plane on free ports of the loopback device, and end it with the block.

    Its programs and its folder go with this process, too, however that ends.

    Raises:
        DevError: A program is missing and can't be built, or one did not come up.
    """
    programs = binaries(*_PROGRAMS)
    for attempt in range(1, _ATTEMPTS + 1):
        folder = Path(tempfile.mkdtemp(prefix="saffron-control-plane-"))
        # A free port can be taken by someone else before our program has it: then other ports are tried.
        try:
            running, supervisor = _start(folder, programs)
            break
        except _PortTakenError as error:
            if attempt == _ATTEMPTS:
                raise DevError(str(error)) from error
    try:
        yield running
    finally:
        _stop(supervisor)


class _PortTakenError(DevError):
    """Someone else was quicker."""


def _start(folder: Path, programs: dict[str, Path]) -> tuple[ControlPlane, "subprocess.Popen[str]"]:
    layout = components.Layout(
        folder=folder,
        address=_LOOPBACK,
        ports=components.Ports(*_free_ports(len(fields(components.Ports)))),
        service_range="198.19.0.0/16",
    )
    authority = components.write_credentials(layout, hosts=(_LOOPBACK, "localhost"))
    plan = Plan(
        folder=str(folder),
        programs=components.control_plane_programs(layout, programs, with_nodes=False),
        remove_folder=True,
    )
    supervisor = _spawn(plan)
    _wait_until_ready(supervisor)
    return ControlPlane(layout.server, folder, layout.kubeconfig("admin"), authority), supervisor


def _spawn(plan: Plan) -> "subprocess.Popen[str]":
    path = Path(plan.folder) / "plan.json"
    path.write_text(plan.to_json())
    return subprocess.Popen(
        # -P: the folder we happen to be in must not decide what is imported.
        [sys.executable, "-P", "-m", "saffron_dev.supervise", str(path), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches us, and we end it in order
    )


def _wait_until_ready(supervisor: "subprocess.Popen[str]") -> None:
    if supervisor.stdout is None:
        raise TypeError("the supervisor was started without a pipe")
    try:
        line = supervisor.stdout.readline()
    except BaseException:  # Ctrl-C while we wait
        _stop(supervisor)
        raise
    answer = json.loads(line) if line else {"failed": "the supervisor ended without a word"}
    if "failed" not in answer:
        return
    _stop(supervisor)
    message = f"The control plane did not come up: {answer['failed']}"
    if "address already in use" in message:
        raise _PortTakenError(message)
    raise DevError(message)


def _stop(supervisor: "subprocess.Popen[str]") -> None:
    supervisor.send_signal(signal.SIGTERM)
    supervisor.wait()
    if supervisor.stdout is not None:
        supervisor.stdout.close()


def _free_ports(count: int) -> list[int]:
    """Return ports of the loopback device that nobody listens on at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((_LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
