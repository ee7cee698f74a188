"""Build the project's images from its Dockerfile, without a registry: the base image comes from Debian's packages.

buildah keeps images and layers in the machine's own store. An image whose inputs are the same as when it was last
built is not built again, and one that the cluster already holds is not loaded again.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from saffron_dev.cluster import imagestore, lifecycle
from saffron_dev.cluster.requirements import IMAGE_TOOLS, find_program, require_root, require_tools
from saffron_dev.cluster.settings import Folders
from saffron_dev.disk import require_free_space
from saffron_dev.errors import DevError
from saffron_dev.paths import REPOSITORY, cache_folder
from saffron_dev.progress import run_logged, say

BASE_IMAGE = "localhost/python:3.11-slim"
_DEBIAN = "bookworm"
_BASE_PACKAGES = "ca-certificates,python3,python3-venv"

TARGETS: Mapping[str, tuple[str, ...]] = {
    "operator": ("crds", "operator"),
    "quantizer": ("crds", "kernels", "quantizer"),
    "engine": (),
}
"""Target of the Dockerfile -> the folders whose sources go into its image, beside the lock file."""

# The images take 0.4, 5.6 and 6.7 GB; the last two share 5.4 GB. While one is loaded its layers lie on the disk twice,
# packed and unpacked.
_BUILD_GIGABYTES = {"operator": 2, "quantizer": 8, "engine": 10}
_LOAD_GIGABYTES = {"operator": 1, "quantizer": 12, "engine": 15}

_COMMON_INPUTS = ("Dockerfile", ".dockerignore", "pyproject.toml", "uv.lock")


def image_name(target: str) -> str:
    """Return the full name of a target's image."""
    return f"localhost/saffron-{target}:dev"


def build(target: str, *, install: bool = True) -> str:
    """Build one image unless it is there and its inputs are unchanged; returns its name.

    Args:
        target: One of `TARGETS`.
        install: Whether missing Debian packages may be installed.

    Raises:
        DevError: The machine lacks something, or the build failed.
    """
    require_root(f"saffron-dev build {target}")
    require_tools(IMAGE_TOOLS, install=install)
    name = image_name(target)
    inputs = digest_of_inputs(REPOSITORY, TARGETS[target])
    record = cache_folder() / "images" / f"{target}.json"
    image_id = _image_id(name)
    if image_id is not None and _read(record) == {"inputs": inputs, "id": image_id}:
        say(f"{name} is up to date.")
        return name
    require_free_space(_store(), _BUILD_GIGABYTES[target], f"to build {name}")
    _build_base()
    run_logged(
        f"Building {name}",
        build_command(target, name, os.environ.get("SSL_CERT_FILE")),
        log=cache_folder() / "log" / f"build-{target}-image.log",
        folder=REPOSITORY,
    )
    _write(record, {"inputs": inputs, "id": str(_image_id(name))})
    return name


def load(target: str, folders: Folders) -> None:
    """Load one built image into the running cluster unless it holds that very image.

    Args:
        target: One of `TARGETS`.
        folders: What the cluster keeps, including which images it was given.

    Raises:
        DevError: The image is not built, there is too little room, or the import failed.
    """
    name = image_name(target)
    image_id = _image_id(name)
    if image_id is None:
        raise DevError(f"{name} has not been built; run `saffron-dev build {target}`.")
    record = folders.root / "loaded" / f"{target}.json"
    if _read(record) == {"id": image_id}:
        say(f"The cluster already holds {name}.")
        return
    require_free_space(folders.root, _LOAD_GIGABYTES[target], f"to load {name} into the cluster")
    imagestore.load(name, lifecycle.importer(folders), install=True)
    _write(record, {"id": image_id})


def build_command(target: str, name: str, certificates: str | None) -> list[str]:
    """Return the command that builds a target.

    Args:
        target: Stage of the Dockerfile.
        name: Name of the image.
        certificates: The file of trusted certificates where a proxy between here and the registries has its own, as
            SSL_CERT_FILE names it; None where nothing special is needed.
    """
    trusted: list[str] = []
    if certificates:
        folder = Path(certificates).parent
        # `--env` does not reach RUN; a mounted folder and a build argument do, and neither stays in the image.
        trusted = [f"--volume={folder}:{folder}:ro", f"--build-arg=SSL_CERT_FILE={certificates}"]
    return [
        *(str(find_program("buildah")), "build", "--layers", "--isolation=chroot", "--network=host"),
        f"--build-arg=BASE={BASE_IMAGE}",
        *trusted,
        *(f"--target={target}", f"--tag={name}", "--file=Dockerfile", "."),
    ]


def digest_of_inputs(repository: Path, folders: Iterable[str]) -> str:
    """Return a digest over the content of all files that decide what an image holds."""
    files = [repository / name for name in _COMMON_INPUTS]
    files += repository.glob("*/pyproject.toml")
    for folder in folders:
        files += (repository / folder).rglob("*")
    digest = hashlib.sha256()
    for file in sorted(set(files)):
        if file.is_file() and "__pycache__" not in file.parts:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.relative_to(repository).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _build_base() -> None:
    """Make a base image with Python out of Debian's packages, once."""
    if _image_id(BASE_IMAGE) is not None:
        return
    container = _buildah("from", "scratch")
    try:
        root = _buildah("mount", container)
        run_logged(
            f"Making {BASE_IMAGE} from Debian's packages",
            [
                str(find_program("debootstrap")),
                *("--variant=minbase", f"--include={_BASE_PACKAGES}", _DEBIAN, root),
            ],
            log=cache_folder() / "log" / "debootstrap.log",
        )
        # Downloaded packages and lists of packages are of no use in an image.
        for pattern in ("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*_*", "var/log/*.log"):
            for file in Path(root).glob(pattern):
                file.unlink()
        _buildah("umount", container)
        _buildah("commit", "--quiet", container, BASE_IMAGE)
    finally:
        _buildah("rm", container)


def _store() -> Path:
    """Return the folder of buildah's store."""
    return Path(json.loads(_buildah("info"))["store"]["GraphRoot"])


def _image_id(name: str) -> str | None:
    """Return the id of an image in buildah's store, which is the digest of its configuration."""
    listed = _buildah("images", "--no-trunc", "--format={{.Name}}:{{.Tag}} {{.ID}}")
    ids = dict(line.split(" ", 1) for line in listed.splitlines())
    return ids.get(name)


def _buildah(*arguments: str) -> str:
    done = subprocess.run([str(find_program("buildah")), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DevError(f"`buildah {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout.strip()


def _read(record: Path) -> object:
    return json.loads(record.read_text()) if record.exists() else None


def _write(record: Path, content: Mapping[str, str]) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(content))
