"""The one folder that the cluster has in each cgroup hierarchy: made before it starts, removed when it has ended."""

import time
from pathlib import Path

from saffron_dev.cluster.settings import CGROUP
from saffron_dev.errors import DevError

_ROOT = Path("/sys/fs/cgroup")
_WAIT_SECONDS = 10


def create(root: Path = _ROOT) -> None:
    """Make the cluster's folder in each hierarchy; the kubelet insists that it exists."""
    if (root / "cgroup.controllers").exists():  # version 2: one hierarchy, and controllers are handed down by name
        controllers = (root / "cgroup.controllers").read_text().split()
        (root / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
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


def _hierarchies(root: Path) -> list[Path]:
    """Return the top folder of each hierarchy, without the symbolic links that are other names for some."""
    if (root / "cgroup.controllers").exists():
        return [root]
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())


def _remove_tree(folder: Path) -> None:
    for child in folder.iterdir():
        if child.is_dir():
            _remove_tree(child)
    folder.rmdir()
