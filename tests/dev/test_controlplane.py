"""The API-level control plane: it is real, it tells users apart, and it leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kubernetes import client, config
from saffron_dev.controlplane import ControlPlane

_HOLD_ONE_FOR_EVER = """
import time
from saffron_dev.controlplane import control_plane
with control_plane() as running:
    print(running.folder, flush=True)
    time.sleep(3600)
"""


def test_a_pod_of_a_fresh_namespace_is_scheduled_by_no_one_but_is_accepted(control_plane: ControlPlane, namespace: str):
    with config.new_client_from_config(str(control_plane.kubeconfig)) as api:
        pod = client.CoreV1Api(api).create_namespaced_pod(
            namespace,
            {
                "metadata": {"name": "waits"},
                "spec": {"containers": [{"name": "main", "image": "localhost/none"}]},
            },
        )
    assert (pod.status.phase, pod.spec.node_name, pod.spec.service_account_name) == ("Pending", None, "default")


def test_another_user_is_known_by_name_and_groups_and_may_do_nothing_unless_granted(control_plane: ControlPlane):
    kubeconfig = control_plane.kubeconfig_for("jane", ("team:weak",))
    with config.new_client_from_config(str(kubeconfig)) as api:
        review = client.AuthenticationV1Api(api).create_self_subject_review({})
        with pytest.raises(client.ApiException) as refused:
            client.CoreV1Api(api).list_namespace()
    assert (review.status.user_info.username, review.status.user_info.groups) == (
        "jane",
        ["team:weak", "system:authenticated"],
    )
    assert refused.value.status == 403


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda blow: blow.name)
def test_however_its_owner_ends_no_process_and_no_file_stays(
    control_plane: ControlPlane, blow: signal.Signals, processes_of: Callable[[str], list[str]]
):
    del control_plane  # asked for so that building the binaries is not timed here
    with subprocess.Popen([sys.executable, "-c", _HOLD_ONE_FOR_EVER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        folder = owner.stdout.readline().strip()
        before = len(processes_of(folder))
        owner.send_signal(blow)
        owner.wait()
        deadline = time.monotonic() + 30
        while (processes_of(folder) or Path(folder).exists()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert (before, processes_of(folder), Path(folder).exists()) == (5, [], False)


def test_when_the_supervisor_itself_is_killed_the_kernel_ends_its_programs(
    control_plane: ControlPlane, processes_of: Callable[[str], list[str]]
):
    del control_plane
    with subprocess.Popen([sys.executable, "-c", _HOLD_ONE_FOR_EVER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        folder = owner.stdout.readline().strip()
        children = Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text().split()
        (supervisor,) = (int(child) for child in children)
        os.kill(supervisor, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while processes_of(folder) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = processes_of(folder)
        owner.kill()
    shutil.rmtree(folder)  # the supervisor would have done it
    assert left == []
