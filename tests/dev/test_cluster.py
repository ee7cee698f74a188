"""The whole cluster: it runs pods as any Kubernetes does, and however it ends, the machine is as it was."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from saffron_dev.binaries import binaries
from saffron_dev.cluster import imagestore, lifecycle, settings
from saffron_dev.cluster.settings import Folders
from saffron_dev.paths import cache_folder

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

_IMAGE = "localhost/saffron-test-kubectl:dev"
"""An image with one program that can speak to a server, write a file and serve; nothing has to be fetched for it."""

_RESTRICTED_POD = """
metadata: {name: worker}
spec:
  restartPolicy: Never
  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: main
      image: localhost/saffron-test-kubectl:dev
      imagePullPolicy: IfNotPresent
      args: [config, set-cluster, somewhere, --server=https://example.com, --kubeconfig=/data/config]
      resources: {limits: {nvidia.com/gpu: 1, memory: 200Mi}}
      securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
"""

_SERVER = """
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  containers:
    - name: main
      image: localhost/saffron-test-kubectl:dev
      imagePullPolicy: IfNotPresent
      args: [proxy, --address=0.0.0.0, --port=8000, "--accept-hosts=.*"]
      readinessProbe: {httpGet: {path: /version, port: 8000}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8000}]}
"""


class Home:
    """A cache folder of the tests' own, which shares only the binaries with the user's."""

    def __init__(self, root: Path) -> None:
        self.folders = Folders(root / "saffron" / "cluster")
        self.environment = {**os.environ, "XDG_CACHE_HOME": str(root)}
        (root / "saffron").mkdir(parents=True)
        (root / "saffron" / "bin").symlink_to(cache_folder() / "bin")

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of `saffron-dev`."""
        return [sys.executable, "-P", "-m", "saffron_dev.cli", *arguments]

    def run(self, *arguments: str, stdin: bytes | None = None) -> str:
        """Run `saffron-dev` to a good end; returns what it said."""
        done = subprocess.run(
            self.command(*arguments), env=self.environment, input=stdin, capture_output=True, check=False
        )
        said = (done.stdout + done.stderr).decode()
        assert done.returncode == 0, said
        return said

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl to a good end; returns what it printed."""
        done = self._kubectl(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def succeeds(self, *arguments: str) -> bool:
        """Whether kubectl comes to a good end."""
        return self._kubectl(*arguments).returncode == 0

    def _kubectl(self, *arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        command = [str(binaries("kubectl")["kubectl"]), f"--kubeconfig={self.folders.kubeconfig}", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)

    def in_foreground(self) -> "subprocess.Popen[str]":
        """Start the cluster in the foreground, and return when it is up."""
        process = subprocess.Popen(
            self.command("up", "--foreground"),
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "Ctrl-C" in line:
                return process
        pytest.fail(f"the cluster did not come up: {''.join(said)}")


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    if (Path("/sys/class/net") / settings.HOST_LINK).exists():
        pytest.fail("A cluster is up, and a machine can hold one. End it first: saffron-dev down")
    # Not below pytest's temporary folder, which may lie in memory, where no container can be stored.
    root = cache_folder() / f"test-cluster-{uuid.uuid4().hex[:8]}"
    home = Home(root)
    yield home
    home.run("down")
    shutil.rmtree(root)


@pytest.fixture
def cluster(home: Home) -> Home:
    """A running cluster that holds the tests' image."""
    home.run("up")
    archive = imagestore.archive_of_one_program(binaries("kubectl")["kubectl"], _IMAGE)
    home.run("load", "-", stdin=archive)
    return home


@pytest.fixture
def namespace(cluster: Home) -> Iterator[str]:
    """A namespace that enforces the pod security standard `restricted`, with a claim."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    # Until its controller has made this account, every pod of the namespace is refused.
    cluster.kubectl("wait", "serviceaccount/default", f"--namespace={name}", "--for=create", "--timeout=30s")
    cluster.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": name},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": settings.STORAGE_CLASS,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    cluster.kubectl("apply", "--filename=-", stdin=yaml.safe_dump(claim))
    yield name
    cluster.kubectl("delete", "namespace", name)


def _traces(home: Home, processes_of: Callable[[str], list[str]]) -> dict[str, list[str]]:
    """Return what of the cluster can be seen on the machine."""
    mine = str(home.folders.root)
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if mine in line]
    return {
        "processes": processes_of(mine),
        "mounts": mounts,
        "devices": [path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith("saffron")],
        "routes": [line for line in _lines("ip", "route") if line.startswith(("198.18.", "198.19."))],
        "rules": [line for line in _lines("iptables-save") if "KUBE-" in line or "CNI-" in line],
    }


def _lines(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


_NO_TRACES: dict[str, list[str]] = {"processes": [], "mounts": [], "devices": [], "routes": [], "rules": []}


def _cgroups() -> list[str]:
    return [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{settings.CGROUP}")]


def _kernel_settings() -> list[str]:
    names = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward")
    return [(Path("/proc/sys") / name).read_text() for name in names]


def _until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.2)


def test_a_restricted_pod_with_a_gpu_writes_to_its_claim_and_the_file_lies_on_the_host(cluster: Home, namespace: str):
    pod = {"apiVersion": "v1", "kind": "Pod", **yaml.safe_load(_RESTRICTED_POD)}
    cluster.kubectl("apply", f"--namespace={namespace}", "--filename=-", stdin=yaml.safe_dump(pod))
    succeeded = "--for=jsonpath={.status.phase}=Succeeded"
    cluster.kubectl("wait", "pod/worker", f"--namespace={namespace}", succeeded, "--timeout=60s")
    logs = cluster.kubectl("logs", "worker", f"--namespace={namespace}")
    (written,) = cluster.folders.volumes.glob("pvc-*/config")
    assert (logs, written.stat().st_uid) == ('Cluster "somewhere" set.\n', 65532)


def test_a_pod_that_asks_for_more_than_restricted_is_refused(cluster: Home, namespace: str):
    pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", **yaml.safe_load(_RESTRICTED_POD)}
    del pod["spec"]["securityContext"]
    with pytest.raises(AssertionError, match='violates PodSecurity "restricted:latest": runAsNonRoot != true'):
        cluster.kubectl("apply", f"--namespace={namespace}", "--filename=-", stdin=yaml.safe_dump(pod))


def test_the_folder_of_a_claim_goes_with_the_claim(cluster: Home, namespace: str):
    _until(lambda: len(list(cluster.folders.volumes.iterdir())) == 1)
    cluster.kubectl("delete", "persistentvolumeclaim", "data", f"--namespace={namespace}")
    _until(lambda: list(cluster.folders.volumes.iterdir()) == [])


def test_a_service_is_reached_by_its_name_from_a_pod_and_by_its_address_from_the_host(cluster: Home):
    cluster.kubectl("apply", "--filename=-", stdin=_SERVER)
    cluster.kubectl("wait", "pod/server", "--for=condition=Ready", "--timeout=60s")
    ask = ("--server=http://server.default.svc.cluster.local", "get", "--raw=/version")
    # The pod is Ready a moment before the node's proxy knows it, and until then refuses connections to the Service.
    _until(lambda: cluster.succeeds("exec", "server", "--", "/kubectl", *ask))
    by_name = json.loads(cluster.kubectl("exec", "server", "--", "/kubectl", *ask))
    address = cluster.kubectl("get", "service", "server", "--output=jsonpath={.spec.clusterIP}")
    by_address = json.loads(_answer_of(f"http://{address}/version"))
    assert (by_name["gitVersion"], by_address["gitVersion"]) == ("v1.37.2", "v1.37.2")


def _answer_of(address: str) -> str:
    code = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"
    environment = {**os.environ, "no_proxy": "*"}
    return subprocess.run(
        [sys.executable, "-c", code, address], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_status_names_node_version_gpus_kubeconfig_and_images(cluster: Home):
    said = cluster.run("status")
    for expected in (settings.NODE_NAME, "v1.37.2", str(cluster.folders.kubeconfig), _IMAGE, settings.PAUSE_IMAGE):
        assert expected in said


def test_a_second_start_finds_objects_and_images_again_and_takes_seconds(cluster: Home):
    cluster.kubectl("create", "configmap", "kept")
    cluster.run("down")
    begun = time.monotonic()
    cluster.run("up")
    seconds = time.monotonic() - begun
    cluster.kubectl("delete", "configmap", "kept")
    assert seconds < 60
    assert _IMAGE in cluster.run("status")


def _end_by_down(home: Home) -> None:
    home.run("up")
    home.run("down")


def _end_by_killing_its_process(home: Home) -> None:
    home.run("up")
    process = lifecycle.running_process(home.folders)
    assert process is not None
    os.kill(process, signal.SIGKILL)


def _end_by_killing_the_first_process_inside(home: Home) -> None:
    home.run("up")
    process = lifecycle.running_process(home.folders)
    assert process is not None
    init = lifecycle.init_process(process)
    assert init is not None
    os.kill(init, signal.SIGKILL)


def _end_by_ctrl_c(home: Home) -> None:
    with home.in_foreground() as process:
        process.send_signal(signal.SIGINT)


def _end_by_killing_the_command_in_the_foreground(home: Home) -> None:
    with home.in_foreground() as process:
        process.kill()


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(_end_by_down, id="after `down`"),
        pytest.param(_end_by_ctrl_c, id="after Ctrl-C in the foreground"),
        pytest.param(_end_by_killing_its_process, id="after kill -9 of the cluster's process"),
        pytest.param(_end_by_killing_the_first_process_inside, id="after kill -9 of the first process inside"),
        pytest.param(
            _end_by_killing_the_command_in_the_foreground, id="after kill -9 of the command in the foreground"
        ),
    ],
)
def test_no_process_mount_device_route_or_rule_stays(
    home: Home, end: Callable[[Home], None], processes_of: Callable[[str], list[str]]
):
    home.run("down")
    kernel_settings = _kernel_settings()
    end(home)
    _until(lambda: _traces(home, processes_of) == _NO_TRACES, seconds=20)
    assert _kernel_settings() == kernel_settings
    home.run("down")  # after a kill it still removes the empty control groups
    assert _cgroups() == []


def test_purge_removes_all_that_a_cluster_keeps(home: Home):
    home.run("up")
    said = home.run("down", "--purge")
    assert (said, home.folders.root.exists()) == ("The cluster is down.\n", False)
