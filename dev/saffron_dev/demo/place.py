"""Where the demo happens: a cluster with our images in it and two namespaces of the demo's own, and their end."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from saffron_dev import images
from saffron_dev.binaries import binaries, helm
from saffron_dev.cluster import lifecycle
from saffron_dev.cluster.settings import folders
from saffron_dev.demo import pods
from saffron_dev.demo.kubectl import Kubectl
from saffron_dev.demo.settings import Settings
from saffron_dev.demo.stopwatch import Stopwatch
from saffron_dev.errors import DevError
from saffron_dev.paths import REPOSITORY

SERVING = "saffron-demo"
"""The namespace of the model server, the claims and the QuantizedModel."""
SYSTEM = "saffron-demo-system"
"""The namespace of the operator."""
RELEASE = "saffron"

_OURS = "saffron.dev/demo"
_CRD = "quantizedmodels.saffron.dev"
_DELETE_SECONDS = 180


@dataclass(frozen=True)
class Place:
    """A cluster, seen from the two namespaces."""

    settings: Settings
    serving: Kubectl
    system: Kubectl


@contextmanager
def place(settings: Settings, watch: Stopwatch, *, keep: bool) -> Iterator[Place]:
    """Give a cluster with the images and two empty namespaces; afterwards take away what was brought.

    Args:
        settings: Which cluster.
        watch: Tells what happens.
        keep: Leave everything as it is at the end.

    Raises:
        DevError: The cluster, an image or a namespace can't be had.
    """
    with _cluster(settings, watch, keep=keep) as kubeconfig:
        program = binaries("kubectl")["kubectl"]
        found = Place(
            settings=settings,
            serving=Kubectl(program, kubeconfig, SERVING),
            system=Kubectl(program, kubeconfig, SYSTEM),
        )
        brings_crd = found.serving.get("customresourcedefinition", _CRD) is None
        _refuse_strangers(found)
        remove(found, crd=False)  # what a demo that was killed left
        try:
            found.serving.apply(pods.namespace(name, {_OURS: "true"}) for name in (SERVING, SYSTEM))
            yield found
        finally:
            if keep:
                watch.say(
                    f"Everything is left in place. kubectl --kubeconfig={kubeconfig} --namespace={SERVING} get qm"
                )
            else:
                with watch.step("Cleaning up"):
                    remove(found, crd=brings_crd)


def install_operator(where: Place, *, quantizer_image: str | None = None) -> None:
    """Install or upgrade the chart, as a person would with helm, and wait until the operator is ready.

    Args:
        where: The cluster.
        quantizer_image: What Jobs run, where it is not our own image.

    Raises:
        DevError: helm failed; the message holds what it said.
    """
    settings = where.settings
    command = [
        *(str(helm()), "upgrade", "--install", RELEASE, str(REPOSITORY / "charts" / "saffron")),
        *("--kubeconfig", str(where.system.kubeconfig), "--namespace", SYSTEM),
        *("--set", f"watchNamespaces={{{SERVING}}}"),
        *("--set", f"image.repository={settings.image_prefix}operator,image.tag={settings.tag}"),
        *("--set", f"quantizerImage={quantizer_image or settings.image('quantizer')}"),
        *("--wait", "--timeout", "180s"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "HELM_DEBUG": "0"})
    if done.returncode != 0:
        raise DevError(f"helm could not install the chart: {done.stderr.strip()}")


def remove(where: Place, *, crd: bool) -> None:
    """Remove the release and the two namespaces, and wait until they are gone."""
    options = ("--ignore-not-found", f"--timeout={_DELETE_SECONDS}s")
    # Its pods take their time to end; meanwhile the release is removed.
    where.serving.run("delete", "namespace", SERVING, "--ignore-not-found", "--wait=false")
    if where.serving.get("namespace", SYSTEM) is not None:
        # Cluster roles and the admission policy belong to no namespace.
        uninstall = [str(helm()), "uninstall", RELEASE, "--ignore-not-found", "--wait", "--timeout", "120s"]
        target = ["--kubeconfig", str(where.system.kubeconfig), "--namespace", SYSTEM]
        done = subprocess.run([*uninstall, *target], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DevError(f"helm could not remove the chart: {done.stderr.strip()}")
    where.serving.run("delete", "namespace", SERVING, SYSTEM, *options, seconds=_DELETE_SECONDS + 10)
    if crd:
        where.serving.run("delete", "customresourcedefinition", _CRD, *options)


@contextmanager
def _cluster(settings: Settings, watch: Stopwatch, *, keep: bool) -> Iterator[Path]:
    """Give the kubeconfig of someone's cluster, or of our own with the images in it, which ends if we started it."""
    if settings.kubeconfig is not None:
        watch.say(f"Using the cluster of {settings.kubeconfig}, with images named {settings.image('...')}")
        yield settings.kubeconfig
        return
    where = folders()
    was_up = lifecycle.running_process(where) is not None
    with watch.step("Starting a Kubernetes cluster on this machine"):
        lifecycle.up(where, install=True, foreground=False)
    try:
        for target in images.TARGETS:
            with watch.step(f"Building the image {target}"):
                images.build(target)
            with watch.step(f"Loading the image {target}"):
                images.load(target, where)
        yield where.kubeconfig
    finally:
        if not keep and not was_up:
            with watch.step("Ending the cluster"):
                lifecycle.down(where)


def _refuse_strangers(where: Place) -> None:
    """Refuse namespaces of our names that someone else made."""
    for name in (SERVING, SYSTEM):
        found = where.serving.get("namespace", name)
        if found is not None and found["metadata"].get("labels", {}).get(_OURS) != "true":
            raise DevError(f"The cluster has a namespace {name} that is not the demo's; delete or rename it.")
