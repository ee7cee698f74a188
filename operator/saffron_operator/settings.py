"""What the operator is told when it starts: the command line, as one frozen object."""

import argparse
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from saffron_operator.lease import Timing


@dataclass(frozen=True)
class Settings:
    """How this process runs."""

    namespaces: tuple[str, ...]
    quantizer_image: str
    lease_namespace: str
    identity: str
    kubeconfig: str | None = None
    metrics_port: int = 9090
    health_port: int = 8080
    lease_name: str = "saffron-operator"
    timing: Timing = field(default_factory=Timing)


def parse(arguments: Sequence[str]) -> Settings:
    """Return the settings; a wrong command line ends the process with exit code 2 and a sentence."""
    parser = argparse.ArgumentParser(
        prog="saffron-operator",
        description="Watches QuantizedModels and takes each from kubectl apply to a promoted checkpoint.",
    )
    parser.add_argument(
        "--namespace",
        action="append",
        required=True,
        metavar="NS",
        help="a namespace to serve; give it once for each. The operator needs the chart's RoleBinding there.",
    )
    parser.add_argument("--quantizer-image", required=True, metavar="IMAGE", help="what Jobs run, as name:tag")
    parser.add_argument(
        "--lease-namespace",
        metavar="NS",
        help="where the Lease for leader election lies (default: the first --namespace)",
    )
    parser.add_argument("--lease-name", default=Settings.lease_name, metavar="NAME", help="default: %(default)s")
    parser.add_argument(
        "--lease-seconds",
        type=_duration,
        default=Timing.duration,
        metavar="N",
        help="how long a replica that vanished keeps the others waiting, 3 to 600 (default: %(default)g)",
    )
    parser.add_argument(
        "--identity",
        default=f"{socket.gethostname()}-{os.getpid()}",
        metavar="NAME",
        help="this replica's name in the Lease (default: host name and process id)",
    )
    parser.add_argument("--kubeconfig", metavar="FILE", help="default: the service account of the pod")
    parser.add_argument(
        "--metrics-port", type=_port, default=Settings.metrics_port, metavar="PORT", help="default: %(default)s"
    )
    parser.add_argument(
        "--health-port", type=_port, default=Settings.health_port, metavar="PORT", help="default: %(default)s"
    )
    given = parser.parse_args(arguments)
    return Settings(
        namespaces=tuple(dict.fromkeys(given.namespace)),
        quantizer_image=given.quantizer_image,
        lease_namespace=given.lease_namespace or given.namespace[0],
        lease_name=given.lease_name,
        identity=given.identity,
        kubeconfig=given.kubeconfig,
        metrics_port=given.metrics_port,
        health_port=given.health_port,
        timing=Timing.of(given.lease_seconds),
    )


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 2**16:
        raise argparse.ArgumentTypeError(f"{port} is no port; give 1 to 65535, or 0 for any free one")
    return port


def _duration(text: str) -> float:
    seconds = float(text)
    if not 3 <= seconds <= 600:  # noqa: PLR2004 - the help text has the same two numbers
        raise argparse.ArgumentTypeError(f"{text} seconds are not between 3 and 600")
    return seconds
