"""The configuration files of the node's programs, as pure functions from settings to text."""

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from saffron_dev.cluster import settings
from saffron_dev.cluster.settings import Folders
from saffron_dev.supervise import Program


def containerd_config(folders: Folders, cni_folder: Path, runc: str, *, may_lower_oom_score: bool) -> str:
    """Return containerd's configuration.

    Args:
        folders: Where it keeps its state.
        cni_folder: Where the network plugins are.
        runc: Path of runc.
        may_lower_oom_score: Whether we hold CAP_SYS_RESOURCE. Without it runc ends with the misleading "can't get
            final child's PID from pipe: EOF" unless containerd leaves the score alone.
    """
    cri = "io.containerd.cri.v1"
    return f"""\
version = 3
root = "{folders.containerd}"
state = "/run/containerd"

[grpc]
address = "{settings.CONTAINERD_SOCKET}"

# Its default is a folder /opt/containerd on the host.
[plugins.'io.containerd.internal.v1.opt']
path = "{folders.containerd}/opt"

[plugins.'{cri}.images']
snapshotter = "overlayfs"

[plugins.'{cri}.images'.pinned_images]
sandbox = "{settings.PAUSE_IMAGE}"

[plugins.'{cri}.runtime']
restrict_oom_score_adj = {"false" if may_lower_oom_score else "true"}
# A profile is loaded into the kernel, and would stay there when the cluster is gone.
disable_apparmor = true

[plugins.'{cri}.runtime'.cni]
bin_dirs = ["{cni_folder}"]
conf_dir = "{folders.config}/cni"

[plugins.'{cri}.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins.'{cri}.runtime'.containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
"""


def kubelet_config(folders: Folders) -> str:
    """Return the kubelet's configuration."""
    return yaml.safe_dump(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": settings.NODE_ADDRESS,
            "healthzBindAddress": settings.NODE_ADDRESS,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(folders.layout().credential("ca.crt"))},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": f"unix://{settings.CONTAINERD_SOCKET}",
            "clusterDNS": [settings.DNS_SERVICE_ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(folders.config / "resolv.conf"),
            # One folder of our own in each hierarchy is what `down` has to remove.
            "cgroupRoot": f"/{settings.CGROUP}",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            # A developer's disk is rarely as empty as a server's; pods must not be evicted for that.
            "evictionHard": {},
            "localStorageCapacityIsolation": False,
            # An image that was collected as garbage can't be pulled again, for there is no registry.
            "imageGCHighThresholdPercent": 100,
            "volumePluginDir": str(folders.kubelet / "plugins"),
        },
        sort_keys=False,
    )


def network_config() -> str:
    """Return the CNI configuration: each pod hangs on a link of its own and is routed, so no bridge is needed."""
    return json.dumps(
        {
            "cniVersion": "1.0.0",
            "name": "saffron",
            "plugins": [
                {
                    "type": "ptp",
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": "/run/cni",
                        "ranges": [[{"subnet": settings.POD_RANGE}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }
            ],
        },
        indent=2,
    )


def dns_config(folders: Folders) -> str:
    """Return CoreDNS's configuration: the cluster's own names, and a clear "no such name" for all others."""
    return f"""\
. {{
    bind {settings.NODE_ADDRESS}
    errors
    ready {settings.NODE_ADDRESS}:8181
    cache 10
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {folders.layout().kubeconfig("coredns")} saffron
    }}
    template ANY ANY . {{
        rcode NXDOMAIN
    }}
}}
"""


def config_files(folders: Folders, containerd: str) -> Mapping[str, str]:
    """Return name -> content of every file in the configuration folder."""
    return {
        "containerd.toml": containerd,
        "kubelet.yaml": kubelet_config(folders),
        "cni/10-saffron.conflist": network_config(),
        "Corefile": dns_config(folders),
        "resolv.conf": f"nameserver {settings.NODE_ADDRESS}\n",
    }


def containerd_program(folders: Folders, binaries: Mapping[str, Path]) -> Program:
    """Return containerd."""
    return Program("containerd", (str(binaries["containerd"]), "--config", str(folders.config / "containerd.toml")))


def node_programs(folders: Folders, binaries: Mapping[str, Path], provisioner: tuple[str, ...]) -> tuple[Program, ...]:
    """Return what runs on the node beside containerd, in the order in which it starts."""
    layout, address = folders.layout(), settings.NODE_ADDRESS
    kubelet = (
        str(binaries["kubelet"]),
        f"--config={folders.config / 'kubelet.yaml'}",
        f"--kubeconfig={layout.kubeconfig('kubelet')}",
        f"--hostname-override={settings.NODE_NAME}",
        f"--node-ip={address}",
        f"--root-dir={folders.kubelet}",
        f"--cert-dir={folders.kubelet / 'pki'}",
    )
    kube_proxy = (
        str(binaries["kube-proxy"]),
        f"--kubeconfig={layout.kubeconfig('kube-proxy')}",
        f"--hostname-override={settings.NODE_NAME}",
        "--proxy-mode=iptables",
        f"--cluster-cidr={settings.POD_RANGE}",
        f"--healthz-bind-address={address}:10256",
        f"--metrics-bind-address={address}:10249",
        # The limit belongs to the host, and is not a namespace's to change.
        "--conntrack-max-per-core=0",
    )
    return (
        Program("kubelet", kubelet, ready=f"http://{address}:10248/healthz"),
        Program("kube-proxy", kube_proxy, ready=f"http://{address}:10256/healthz"),
        Program(
            "coredns",
            (str(binaries["coredns"]), "-conf", str(folders.config / "Corefile")),
            ready=f"http://{address}:8181/ready",
        ),
        Program("volumes", provisioner),
    )
