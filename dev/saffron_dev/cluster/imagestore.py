"""The cluster's image store: what is loaded into it, since no registry can be pulled from."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from saffron_dev.cluster.requirements import IMAGE_TOOLS, find_program, require_tools
from saffron_dev.cluster.settings import CONTAINERD_SOCKET
from saffron_dev.errors import DevError
from saffron_dev.progress import say

_CHUNK = 4 * 2**20
_MEGABYTE = 10**6
_SECONDS_BETWEEN_LINES = 20


def ctr(binary: Path, *arguments: str) -> list[str]:
    """Return the command line of containerd's client for the kubelet's images."""
    return [str(binary), "--address", str(CONTAINERD_SOCKET), "--namespace", "k8s.io", *arguments]


def import_command(binary: Path) -> list[str]:
    """Return the command line that imports an archive on standard input and keeps its layers once, unpacked."""
    # Without the last option every layer stays on the disk a second time, as it was packed.
    return ctr(binary, "images", "import", "--local", "--discard-unpacked-layers", "-")


def archive_of_one_program(program: Path, image: str) -> bytes:
    """Return a docker-archive of an image that holds one static program and runs it as a nobody."""
    layer = _tar({program.name: program.read_bytes()})
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": [f"/{program.name}"], "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
            "history": [{"created_by": "saffron-dev"}],
        }
    ).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [image], "Layers": ["layer.tar"]}]).encode()
    return _tar({"config.json": config, "layer.tar": layer, "manifest.json": manifest})


def _tar(files: dict[str, bytes]) -> bytes:
    """Return a tar of files; equal content gives equal bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def load(source: str, importer: list[str], *, install: bool) -> None:
    """Load an image into the cluster.

    Args:
        source: A tar file (docker-archive or OCI), `-` for such a tar on standard input, or the name of an image that
            buildah has built.
        importer: The command that reads a tar from its standard input.
        install: Whether buildah may be installed where it is missing.

    Raises:
        DevError: There is no such image, or it can't be read or imported.
    """
    begun = time.monotonic()
    with _opened(source, install=install) as stream, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(importer, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors)
        if process.stdin is None:
            raise TypeError("started without a pipe")
        try:
            copied = _copy(stream, process.stdin, _told(f"Loading {source}"))
            process.stdin.close()
        except BrokenPipeError as error:  # it ended early, and says why
            process.wait()
            raise DevError(f"{source} could not be loaded into the cluster: {_text(errors)}") from error
        if process.wait() != 0:
            raise DevError(f"{source} could not be loaded into the cluster: {_text(errors)}")
    say(f"Loading {source} ({copied / _MEGABYTE:.0f} MB): {time.monotonic() - begun:.0f} s")


def _text(file: IO[bytes]) -> str:
    """Return what the importer said, without its warnings."""
    file.seek(0)
    lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(line for line in lines if "level=warning" not in line)


@contextmanager
def _opened(source: str, *, install: bool) -> Iterator[IO[bytes]]:
    if source == "-":
        yield sys.stdin.buffer
    elif Path(source).is_file():
        with Path(source).open("rb") as file:
            yield file
    else:
        with _pushed_by_buildah(source, install=install) as stream:
            yield stream


@contextmanager
def _pushed_by_buildah(image: str, *, install: bool) -> Iterator[IO[bytes]]:
    """Stream an image out of buildah's own store: a large image is never written to disk once more."""
    if "/" not in image:
        raise DevError(f"{image} is no file, and an image's name is complete, such as localhost/{image}.")
    require_tools(IMAGE_TOOLS, install=install)
    buildah = str(find_program("buildah"))
    known = subprocess.run([buildah, "inspect", "--type=image", image], capture_output=True, check=False)
    if known.returncode != 0:
        raise DevError(f"{image} is no file, and buildah has no image of that name either (`buildah images`).")
    command = [buildah, "push", "--quiet", image, f"docker-archive:/dev/stdout:{image}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        if process.stdout is None or process.stderr is None:
            raise TypeError("started without pipes")
        yield process.stdout
        process.stdout.close()
        errors = process.stderr.read().decode(errors="replace")
        if process.wait() != 0:
            raise DevError(f"buildah could not give out {image}: {errors.strip()}")


def _copy(source: IO[bytes], target: IO[bytes], told: Callable[[int], None]) -> int:
    copied = 0
    while chunk := source.read(_CHUNK):
        target.write(chunk)
        copied += len(chunk)
        told(copied)
    return copied


def _told(label: str) -> Callable[[int], None]:
    """Return a function that tells, now and then, how many bytes have gone through."""
    begun = last = time.monotonic()

    def tell(copied: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            say(f"{label} ... {copied / _MEGABYTE:.0f} MB after {now - begun:.0f} s")

    return tell
