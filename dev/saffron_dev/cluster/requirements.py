"""What a machine must have before a cluster can run on it, each lack told in a sentence."""

import ipaddress
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saffron_dev.cluster import settings
from saffron_dev.errors import DevError
from saffron_dev.paths import cache_folder
from saffron_dev.progress import run_logged

_CAP_SYS_RESOURCE = 24


@dataclass(frozen=True)
class Tool:
    """A program that comes from the distribution."""

    program: str
    debian_package: str


CLUSTER_TOOLS = (
    Tool("ip", "iproute2"),
    Tool("unshare", "util-linux"),
    Tool("nsenter", "util-linux"),
    Tool("mount", "mount"),
    Tool("runc", "runc"),
    Tool("iptables", "iptables"),
    Tool("conntrack", "conntrack"),
    Tool("ptp", "containernetworking-plugins"),
    Tool("host-local", "containernetworking-plugins"),
    Tool("loopback", "containernetworking-plugins"),
)

IMAGE_TOOLS = (Tool("buildah", "buildah"), Tool("debootstrap", "debootstrap"))

SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"))
"""A user's PATH often lacks the folders of the system's programs, also under sudo."""


def find_program(name: str) -> Path | None:
    """Return the path of a program or network plugin, or None where the machine has none."""
    places = os.pathsep.join((SEARCH_PATH, *map(str, settings.CNI_FOLDERS)))
    found = shutil.which(name, path=places)
    return Path(found) if found else None


def require_root(command: str, user_id: int | None = None) -> None:
    """Check that we are root on a Linux that Kubernetes is built for.

    Raises:
        DevError: We are not.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise DevError(
            f"A local cluster needs Linux on x86-64, and this is {sys.platform} on {platform.machine()}. "
            "Let KUBECONFIG name another cluster instead."
        )
    if (os.geteuid() if user_id is None else user_id) != 0:
        raise DevError(
            f"`{command}` needs root, since it runs a real kubelet. Run it with sudo, or let KUBECONFIG name "
            "another cluster. (`make test` needs no root.)"
        )


def missing_packages(tools: Iterable[Tool], find: Callable[[str], Path | None] = find_program) -> list[str]:
    """Return the Debian packages of the tools that are not there, each once, in order."""
    return list(dict.fromkeys(tool.debian_package for tool in tools if find(tool.program) is None))


def require_tools(tools: Sequence[Tool], *, install: bool) -> None:
    """Check that the tools are there, and install them with apt-get where that is wanted and possible.

    Raises:
        DevError: Some are missing; the message has the command that installs them.
    """
    missing = missing_packages(tools)
    if not missing:
        return
    command = f"apt-get update && apt-get install --yes --no-install-recommends {' '.join(missing)}"
    if not install or shutil.which("apt-get") is None:
        raise DevError(
            f"This machine lacks {', '.join(missing)} (the names of Debian's packages). On Debian or Ubuntu: {command}"
        )
    run_logged(
        f"Installing {', '.join(missing)} with apt-get",
        ["sh", "-c", command],
        log=cache_folder() / "log" / "apt.log",
        environment={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )
    still_missing = missing_packages(tools)
    if still_missing:
        raise DevError(f"apt-get installed {', '.join(still_missing)}, but its programs are not where we look.")


def require_free_addresses() -> None:
    """Check that the cluster's addresses are nobody else's.

    Raises:
        DevError: A route overlaps them.
    """
    answer = subprocess.run(["ip", "-json", "route", "show"], capture_output=True, text=True, check=True)
    taken = overlapping_route(json.loads(answer.stdout))
    if taken is not None:
        raise DevError(
            f"The cluster needs the addresses {settings.TEST_RANGE}, and this machine already routes {taken['dst']} to "
            f"device {taken.get('dev', '?')}. If that is another user's cluster, end it with `saffron-dev down`."
        )


def overlapping_route(routes: Iterable[Mapping[str, str]]) -> Mapping[str, str] | None:
    """Return the first route, as `ip -json route` prints it, into the range that the cluster uses."""
    wanted = ipaddress.ip_network(settings.TEST_RANGE)
    for route in routes:
        if route["dst"] != "default" and ipaddress.ip_network(route["dst"]).overlaps(wanted):
            return route
    return None


def require_plain_disk(folder: Path) -> None:
    """Check that containers' file systems can be laid over this folder.

    Raises:
        DevError: The folder is itself in an overlay, as inside of most containers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    answer = subprocess.run(
        ["stat", "--file-system", "--format=%T", str(folder)], capture_output=True, text=True, check=True
    )
    if answer.stdout.strip() in {"overlayfs", "tmpfs"}:
        raise DevError(
            f"{folder} lies on {answer.stdout.strip()}, on which containers can't be stored. Let XDG_CACHE_HOME name a "
            "folder on a real disk."
        )


def may_lower_oom_score(status: str) -> bool:
    """Tell from the text of /proc/self/status whether we hold CAP_SYS_RESOURCE."""
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
