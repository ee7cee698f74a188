"""The addresses, names and folders of the one cluster that a machine can run."""

from dataclasses import dataclass
from pathlib import Path

from saffron_dev import components
from saffron_dev.paths import cache_folder

# 198.18.0.0/15 is set aside for tests (RFC 2544), so no real network that a developer needs lies in it.
TEST_RANGE = "198.18.0.0/15"
NODE_ADDRESS = "198.18.0.1"
HOST_ADDRESS = "198.18.0.2"
LINK_PREFIX = 30
POD_RANGE = "198.18.1.0/24"
SERVICE_RANGE = "198.19.0.0/16"
API_SERVICE_ADDRESS = "198.19.0.1"  # the API server always takes the first address of the range
DNS_SERVICE_ADDRESS = "198.19.0.10"

NODE_NAME = "saffron"
HOST_LINK = "saffron0"
NODE_LINK = "eth0"
CGROUP = "saffron-dev"
STORAGE_CLASS = "saffron-dev"
PROVISIONER = "saffron.dev/host-folder"
PAUSE_IMAGE = "localhost/saffron-pause:dev"
FAKE_GPUS = 2

CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")
"""Only inside the cluster's mount namespace, where /run is its own."""

CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))
"""Where Debian, upstream and Fedora put the network plugins."""

PORTS = components.Ports(etcd=2379, etcd_peer=2380, api=6443, controller_manager=10257, scheduler=10259)


@dataclass(frozen=True)
class Folders:
    """What the cluster keeps between two starts."""

    root: Path

    @property
    def kubeconfig(self) -> Path:
        """Return the kubeconfig with which the host's user may do everything."""
        return self.root / "kubeconfig"

    @property
    def lock(self) -> Path:
        """Return the file that the running cluster holds locked; it names the cluster's process."""
        return self.root / "lock"

    @property
    def config(self) -> Path:
        """Return the folder of the rendered configuration files."""
        return self.root / "config"

    @property
    def containerd(self) -> Path:
        """Return the folder of images and containers."""
        return self.root / "containerd"

    @property
    def kubelet(self) -> Path:
        """Return the folder of the pods' volumes."""
        return self.root / "kubelet"

    @property
    def volumes(self) -> Path:
        """Return the folder of persistent volumes."""
        return self.root / "volumes"

    @property
    def log(self) -> Path:
        """Return the folder of logs; it is /var/log inside the cluster."""
        return self.root / "log"

    def layout(self) -> components.Layout:
        """Return the control plane's part."""
        return components.Layout(folder=self.root, address=NODE_ADDRESS, ports=PORTS, service_range=SERVICE_RANGE)


def folders() -> Folders:
    """Return the folders of this user's cluster."""
    return Folders(cache_folder() / "cluster")
