"""The operator is small: its image on the way to a node, and its memory when it has nothing to do."""

import subprocess
import zlib

import pytest

from saffron_dev.cluster.requirements import find_program
from saffron_dev.demo import serving
from saffron_dev.demo.place import Place

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400)]

_IMAGE_MEGABYTES = 250
_IDLE_MEGABYTES = 150
_CHUNK = 2**20


def test_the_operators_image_has_at_most_250_megabytes_compressed(where: Place):
    if where.settings.kubeconfig is not None:
        pytest.skip("the image lies in a registry, not in buildah's store, because KUBECONFIG names a cluster")
    command = [str(find_program("buildah")), "push", "--quiet", where.settings.image("operator")]
    packer = zlib.compressobj(6, wbits=31)  # as gzip, which registries hold
    compressed = 0
    with subprocess.Popen([*command, "docker-archive:/dev/stdout"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while chunk := process.stdout.read(_CHUNK):
            compressed += len(packer.compress(chunk))
    compressed += len(packer.flush())
    assert process.returncode == 0
    assert 10 < compressed / 1e6 <= _IMAGE_MEGABYTES


def test_every_idle_operator_has_at_most_150_megabytes(where: Place, engine: serving.Engine):  # noqa: ARG001 - installs
    pods = where.system.items("pods", "app.kubernetes.io/name=saffron-operator")
    assert len(pods) == 2
    for pod in pods:
        status = where.system.run("exec", pod["metadata"]["name"], "--", "cat", "/proc/1/status")
        (resident,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")]
        assert 10 < resident / 1e3 <= _IDLE_MEGABYTES
