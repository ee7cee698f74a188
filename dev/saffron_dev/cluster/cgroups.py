"""The one folder that the cluster has in each cgroup hierarchy: made before it starts, removed when it has ended."""

import time
from pathlib import Path

from saffron_dev.cluster.settings import CGROUP
from saffron_dev.errors import DevError

_ROOT = Path("/sys/fs/cgroup")
_WAIT_SECONDS = 10
_NEEDED = frozenset({"cpu", "cpuset", "hugetlb", "memory", "pids"})
"""The controllers without which, where the machine has them, the kubelet takes its folder for missing."""


def create(root: Path = _ROOT) -> None:
    """Make the cluster's folder in each hierarchy; the kubelet insists that it exists."""
    if _is_version_2(root):  # one hierarchy, in which controllers are handed down by name
        offered = set((root / "cgroup.controllers").read_text().split())
        handed_down = set((root / "cgroup.subtree_control").read_text().split())
        for name in sorted(_NEEDED & offered - handed_down):
            (root / "cgroup.subtree_control").write_text(f"+{name}")
    for hierarchy in _hierarchies(root):
        folder = hierarchy / CGROUP
        folder.mkdir(exist_ok=True)
        # A new cpuset of version 1 has no CPU and no memory node, and nothing could run in it.
        for name in ("cpuset.cpus", "cpuset.mems"):
            parent, own = hierarchy / name, folder / name
            if parent.exists() and own.exists() and not own.read_text().strip():
                own.write_text(parent.read_text())


def remove(root: Path = _ROOT) -> None:
    """Remove the cluster's folders, which hold nothing once its processes have ended.

    Raises:
        DevError: Processes are still in them after ten seconds.
    """
    deadline = time.monotonic() + _WAIT_SECONDS
    for hierarchy in _hierarchies(root):
        while (hierarchy / CGROUP).exists():
            try:
                _remove_tree(hierarchy / CGROUP)
            except OSError as error:  # processes that were killed take a moment to go
                if time.monotonic() > deadline:
                    raise DevError(f"{hierarchy / CGROUP} still holds processes: {error}") from error
                time.sleep(0.1)


def _is_version_2(root: Path) -> bool:
    return (root / "cgroup.controllers").exists()


def _hierarchies(root: Path) -> list[Path]:
    """Return the top folder of each hierarchy, without the symbolic links that are other names for some."""
    if _is_version_2(root):
        return [root]
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())


def _remove_tree(folder: Path) -> None:
    for child in folder.iterdir():
        if child.is_dir():
            _remove_tree(child)
    folder.rmdir()
