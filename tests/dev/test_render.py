"""The configuration that is written for the cluster's programs."""

import io
import json
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml

from saffron_dev import components
from saffron_dev.cluster import imagestore, render, settings
from saffron_dev.cluster.settings import Folders
from saffron_dev.components import Layout, Ports

_FOLDERS = Folders(Path("/state"))
_LAYOUT = Layout(Path("/cp"), "127.0.0.1", Ports(1, 2, 3, 4, 5), "198.19.0.0/16")


@pytest.mark.parametrize(
    ("may_lower", "restricted"),
    [
        pytest.param(True, False, id="with CAP_SYS_RESOURCE containerd sets the scores that the kubelet asks for"),
        pytest.param(False, True, id="without CAP_SYS_RESOURCE containerd leaves scores alone"),
    ],
)
def test_containerd_is_configured_for_what_it_may_do(*, may_lower: bool, restricted: bool):
    text = render.containerd_config(_FOLDERS, Path("/usr/lib/cni"), "/usr/sbin/runc", may_lower_oom_score=may_lower)
    assert tomllib.loads(text) == {
        "version": 3,
        "root": "/state/containerd",
        "state": "/run/containerd",
        "grpc": {"address": "/run/containerd/containerd.sock"},
        "plugins": {
            "io.containerd.internal.v1.opt": {"path": "/state/containerd/opt"},
            "io.containerd.cri.v1.images": {
                "snapshotter": "overlayfs",
                "pinned_images": {"sandbox": "localhost/saffron-pause:dev"},
            },
            "io.containerd.cri.v1.runtime": {
                "restrict_oom_score_adj": restricted,
                "disable_apparmor": True,
                "cni": {"bin_dirs": ["/usr/lib/cni"], "conf_dir": "/state/config/cni"},
                "containerd": {
                    "runtimes": {
                        "runc": {
                            "runtime_type": "io.containerd.runc.v2",
                            "options": {"BinaryName": "/usr/sbin/runc", "SystemdCgroup": False},
                        }
                    }
                },
            },
        },
    }


def test_the_addresses_of_the_manifests_are_those_of_the_settings():
    path = Path(render.__file__).with_name("manifests.yaml")
    objects = {item["kind"]: item for item in yaml.safe_load_all(path.read_text())}
    assert (
        objects["Service"]["spec"]["clusterIP"],
        objects["EndpointSlice"]["endpoints"][0]["addresses"],
        objects["StorageClass"]["metadata"]["name"],
        objects["StorageClass"]["provisioner"],
    ) == (
        settings.DNS_SERVICE_ADDRESS,
        [settings.NODE_ADDRESS],
        settings.STORAGE_CLASS,
        settings.PROVISIONER,
    )


@pytest.mark.parametrize(
    ("with_nodes", "only_there"),
    [
        pytest.param(
            True,
            {
                "--advertise-address=127.0.0.1",
                "--kubelet-client-certificate=/cp/pki/kubelet-client.crt",
                "--kubelet-client-key=/cp/pki/kubelet-client.key",
                "--kubelet-preferred-address-types=InternalIP",
            },
            id="with a node it knows how to reach the kubelet",
        ),
        pytest.param(
            False,
            {"--endpoint-reconciler-type=none"},
            id="without a node it does not offer its loopback address to pods",
        ),
    ],
)
def test_the_api_server_differs_only_in_what_a_node_needs(*, with_nodes: bool, only_there: set[str]):
    mine = set(components.apiserver_options(_LAYOUT, with_nodes=with_nodes))
    other = set(components.apiserver_options(_LAYOUT, with_nodes=not with_nodes))
    assert mine - other == only_there


def test_the_archive_of_one_program_holds_one_layer_with_that_program(tmp_path: Path):
    program = tmp_path / "pause"
    program.write_bytes(b"\x7fELF")
    archive = imagestore.archive_of_one_program(program, "localhost/x:dev")
    with tarfile.open(fileobj=io.BytesIO(archive)) as image:
        manifest = json.load(image.extractfile("manifest.json"))
        layer = image.extractfile("layer.tar").read()
    with tarfile.open(fileobj=io.BytesIO(layer)) as files:
        content = {entry.name: (entry.mode, files.extractfile(entry).read()) for entry in files}
    assert (manifest, content) == (
        [{"Config": "config.json", "RepoTags": ["localhost/x:dev"], "Layers": ["layer.tar"]}],
        {"pause": (0o755, b"\x7fELF")},
    )
    assert archive == imagestore.archive_of_one_program(program, "localhost/x:dev")
