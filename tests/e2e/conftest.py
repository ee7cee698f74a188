"""The demo's way, walked once for all tests here, with the operator killed on it five times."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from saffron_api.status import QuantizedModelStatus
from saffron_dev.cluster.settings import CGROUP, folders
from saffron_dev.demo import serving, tour
from saffron_dev.demo.asking import Answer
from saffron_dev.demo.follow import JOBS, follow
from saffron_dev.demo.kubectl import Kubectl
from saffron_dev.demo.place import Place, place
from saffron_dev.demo.settings import Settings, read_settings
from saffron_dev.demo.stopwatch import Stopwatch
from saffron_dev.errors import DevError
from saffron_dev.paths import REPOSITORY
from saffron_operator import reasons

LEASE = "saffron-operator"
_RUN_SECONDS = 3600


@pytest.fixture(scope="session")
def e2e_settings() -> Settings:
    try:
        return read_settings(os.environ)
    except DevError as error:
        pytest.exit(str(error), returncode=2)


@pytest.fixture(scope="session")
def machine(e2e_settings: Settings) -> Iterator[None]:  # noqa: ARG001 - what is missing is said first
    """This machine and this checkout, which must be as they were when all else has ended."""
    before = _traces()
    yield
    assert _traces() == before


def _traces() -> dict[str, list[str]]:
    """Return what a cluster, its pods or a test can leave behind."""
    ours = str(folders().root)
    commands = [_command_line(path) for path in Path("/proc").glob("[0-9]*/cmdline")]
    devices = _lines("ip", "-brief", "link")
    return {
        "processes": [command for command in commands if ours in command or "vllm.entrypoints" in command],
        "mounts": [line for line in Path("/proc/self/mounts").read_text().splitlines() if ours in line],
        "devices": [line.split()[0] for line in devices],
        "firewall": [line for line in _lines("iptables-save") if "KUBE-" in line or "CNI-" in line],
        "cgroups": [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{CGROUP}")],
        "checkout": _lines("git", "-C", str(REPOSITORY), "status", "--porcelain"),
    }


def _command_line(path: Path) -> str:
    try:
        return path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
        return ""


def _lines(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.fixture(scope="session")
def watch() -> Stopwatch:
    return Stopwatch()


@pytest.fixture(scope="session")
def where(e2e_settings: Settings, machine: None, watch: Stopwatch) -> Iterator[Place]:  # noqa: ARG001 - looks last
    """The cluster and the demo's two namespaces."""
    with place(e2e_settings, watch, keep=False) as found:
        yield found


@pytest.fixture(scope="session")
def engine(where: Place, watch: Stopwatch) -> serving.Engine:
    """The operator is installed; the original is served and asked all the time."""
    return tour.prepare(where, watch)


Moment = tuple[str, Callable[[QuantizedModelStatus], bool]]


def _reason(*wanted: str) -> Callable[[QuantizedModelStatus], bool]:
    return lambda status: any(
        condition.type == "Reconciling" and condition.reason in wanted for condition in status.conditions
    )


MOMENTS: tuple[Moment, ...] = (
    ("while it samples", _reason(reasons.SAMPLING)),
    ("while the first candidate is made", lambda status: any(c.state == "Running" for c in status.candidates)),
    ("once the first verdict is there", lambda status: any(c.verdict is not None for c in status.candidates)),
    ("during the canary's step", _reason(reasons.CANARY_STARTING, reasons.CANARY_PAUSED)),
    ("while it promotes", _reason(reasons.PROMOTING)),
)
"""When the operator's leader is killed, in this order, each once."""


@dataclass
class Killer:
    """Kills the operator's leader with SIGKILL at each moment."""

    system: Kubectl
    own_machine: bool
    """Whether the pod's process runs on this machine, where it can be killed without anybody being told."""
    killed: list[str] = field(default_factory=list)

    def glance(self, status: QuantizedModelStatus) -> None:
        """Kill if the next moment has come."""
        if len(self.killed) < len(MOMENTS):
            name, has_come = MOMENTS[len(self.killed)]
            if has_come(status):
                self._kill_leader()
                self.killed.append(name)

    def _kill_leader(self) -> None:
        lease = self.system.get("lease", LEASE)
        assert lease is not None, "the operator holds no Lease"
        pod, _, _process = lease["spec"]["holderIdentity"].rpartition("-")
        if self.own_machine:
            uid = self.system.run("get", "pod", pod, "--output=jsonpath={.metadata.uid}")
            os.kill(_process_of_pod(uid), signal.SIGKILL)
        else:
            self.system.run("delete", "pod", pod, "--force", "--grace-period=0")


def _process_of_pod(uid: str) -> int:
    """Return this machine's id of a pod's operator process."""
    for folder in Path("/proc").glob("[0-9]*"):
        if "saffron-operator" in _command_line(folder / "cmdline") and uid in (folder / "cgroup").read_text():
            return int(folder.name)
    raise AssertionError(f"pod {uid} has no operator process on this machine")


@dataclass(frozen=True)
class Run:
    """What a whole run left to be looked at."""

    status: QuantizedModelStatus
    killed: tuple[str, ...]
    requests: tuple[Answer, ...]
    jobs: tuple[dict[str, Any], ...]


@pytest.fixture(scope="session")
def run(where: Place, engine: serving.Engine, watch: Stopwatch) -> Run:  # noqa: ARG001 - it must serve first
    """One whole run, from kubectl apply to its end."""
    killer = Killer(where.system, own_machine=where.settings.kubeconfig is None)
    where.serving.apply([tour.example(gpu=where.settings.gpu)])
    status = follow(where.serving, tour.NAME, watch, seconds=_RUN_SECONDS, glance=killer.glance)
    return Run(
        status=status,
        killed=tuple(killer.killed),
        requests=tuple(tour.final_answers(where.serving)),
        jobs=tuple(where.serving.items("jobs", JOBS)),
    )
