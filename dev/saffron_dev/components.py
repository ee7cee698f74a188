"""How the control plane's programs are configured; the same for a cluster with and without a node."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from saffron_dev import pki
from saffron_dev.supervise import Program

# Who each component is, to the API server. RBAC has a built-in role for each of these names.
_USERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "admin": ("saffron-admin", ("system:masters",)),
    "controller-manager": ("system:kube-controller-manager", ()),
    "scheduler": ("system:kube-scheduler", ()),
}


@dataclass(frozen=True)
class Ports:
    """The TCP ports that the control plane listens on."""

    etcd: int
    etcd_peer: int
    api: int
    controller_manager: int
    scheduler: int


@dataclass(frozen=True)
class Layout:
    """Where a control plane keeps its files and listens."""

    folder: Path
    address: str
    ports: Ports
    service_range: str

    @property
    def server(self) -> str:
        """Return the API server's address."""
        return f"https://{self.address}:{self.ports.api}"

    def credential(self, name: str) -> Path:
        """Return the path of a key or certificate."""
        return self.folder / "pki" / name

    def kubeconfig(self, component: str) -> Path:
        """Return the path of a component's kubeconfig."""
        return self.folder / f"{component}.kubeconfig"


def write_credentials(
    layout: Layout,
    hosts: Sequence[str],
    more_users: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType({}),
) -> pki.Pair:
    """Write all keys, certificates and kubeconfig files of a control plane; returns its authority.

    Args:
        layout: Where they go.
        hosts: Names and addresses under which the API server is reached.
        more_users: Beside the control plane's own components: name of the kubeconfig -> user and groups.
    """
    authority = pki.new_authority("saffron-dev")
    server = pki.issue_server(authority, "kube-apiserver", hosts)
    to_kubelet = pki.issue_client(authority, "kube-apiserver-kubelet-client", ("system:masters",))
    files = {
        "ca.crt": authority.certificate,
        "ca.key": authority.key,
        "apiserver.crt": server.certificate,
        "apiserver.key": server.key,
        "kubelet-client.crt": to_kubelet.certificate,
        "kubelet-client.key": to_kubelet.key,
        "service-account.key": pki.new_key(),
    }
    for name, content in files.items():
        pki.write_private(layout.credential(name), content)
    for component, (user, groups) in {**_USERS, **more_users}.items():
        client = pki.issue_client(authority, user, groups)
        text = pki.kubeconfig(layout.server, authority.certificate, user, client)
        pki.write_private(layout.kubeconfig(component), text)
    return authority


def control_plane_programs(layout: Layout, binaries: Mapping[str, Path], *, with_nodes: bool) -> tuple[Program, ...]:
    """Return the control plane's programs in the order in which they start."""
    address, ports = layout.address, layout.ports
    return (
        Program(
            "etcd",
            (str(binaries["etcd"]), *etcd_options(layout)),
            ready=f"http://{address}:{ports.etcd}/readyz",
        ),
        Program(
            "kube-apiserver",
            (str(binaries["kube-apiserver"]), *apiserver_options(layout, with_nodes=with_nodes)),
            ready=f"{layout.server}/readyz",
        ),
        Program(
            "kube-controller-manager",
            (
                str(binaries["kube-controller-manager"]),
                *controller_manager_options(layout, with_nodes=with_nodes),
            ),
            ready=f"https://{address}:{ports.controller_manager}/healthz",
        ),
        Program(
            "kube-scheduler",
            (str(binaries["kube-scheduler"]), *scheduler_options(layout)),
            ready=f"https://{address}:{ports.scheduler}/healthz",
        ),
    )


def etcd_options(layout: Layout) -> tuple[str, ...]:
    """Return etcd's arguments."""
    client = f"http://{layout.address}:{layout.ports.etcd}"
    peer = f"http://{layout.address}:{layout.ports.etcd_peer}"
    return (
        "--name=saffron",
        f"--data-dir={layout.folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=saffron={peer}",
        "--unsafe-no-fsync",  # a power cut may cost a development cluster, and every write is much faster
        "--log-level=warn",
    )


def apiserver_options(layout: Layout, *, with_nodes: bool) -> tuple[str, ...]:
    """Return kube-apiserver's arguments.

    Args:
        layout: Where it keeps its files and listens.
        with_nodes: Whether pods will reach it through the Service `kubernetes` and it will reach kubelets.
    """
    nodes = (
        f"--advertise-address={layout.address}",
        f"--kubelet-client-certificate={layout.credential('kubelet-client.crt')}",
        f"--kubelet-client-key={layout.credential('kubelet-client.key')}",
        # Else `kubectl logs` looks the node up by its name, which no DNS knows.
        "--kubelet-preferred-address-types=InternalIP",
    )
    # A loopback address can't be an endpoint of the Service `kubernetes`, and no pod is there to use it.
    no_nodes = ("--endpoint-reconciler-type=none",)
    return (
        f"--etcd-servers=http://{layout.address}:{layout.ports.etcd}",
        f"--bind-address={layout.address}",
        f"--secure-port={layout.ports.api}",
        f"--service-cluster-ip-range={layout.service_range}",
        f"--tls-cert-file={layout.credential('apiserver.crt')}",
        f"--tls-private-key-file={layout.credential('apiserver.key')}",
        f"--client-ca-file={layout.credential('ca.crt')}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={layout.credential('service-account.key')}",
        f"--service-account-signing-key-file={layout.credential('service-account.key')}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--profiling=false",
        *(nodes if with_nodes else no_nodes),
    )


def controller_manager_options(layout: Layout, *, with_nodes: bool) -> tuple[str, ...]:
    """Return kube-controller-manager's arguments."""
    # Where a test plays the kubelet, no heartbeat comes, and no pod must be evicted for that.
    controllers = "*" if with_nodes else "*,-node-lifecycle-controller"
    return (
        f"--kubeconfig={layout.kubeconfig('controller-manager')}",
        f"--bind-address={layout.address}",
        f"--secure-port={layout.ports.controller_manager}",
        f"--service-account-private-key-file={layout.credential('service-account.key')}",
        f"--root-ca-file={layout.credential('ca.crt')}",
        f"--controllers={controllers}",
        "--use-service-account-credentials=true",
        # The default of 20 calls a second is what many Jobs and Deployments at once would wait for.
        "--kube-api-qps=300",
        "--kube-api-burst=600",
        "--leader-elect=false",
        "--profiling=false",
    )


def scheduler_options(layout: Layout) -> tuple[str, ...]:
    """Return kube-scheduler's arguments."""
    return (
        f"--kubeconfig={layout.kubeconfig('scheduler')}",
        f"--bind-address={layout.address}",
        f"--secure-port={layout.ports.scheduler}",
        "--leader-elect=false",
        "--profiling=false",
    )
