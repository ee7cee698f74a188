"""What a machine lacks is told in a sentence that says what to do."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from saffron_dev import disk
from saffron_dev.cluster import requirements
from saffron_dev.cluster.requirements import Tool
from saffron_dev.errors import DevError


def test_someone_who_is_not_root_is_told_about_sudo_and_about_kubeconfig():
    with pytest.raises(DevError) as refused:
        requirements.require_root("saffron-dev up", user_id=1000)
    assert str(refused.value) == (
        "`saffron-dev up` needs root, since it runs a real kubelet. Run it with sudo, or let KUBECONFIG name another "
        "cluster. (`make test` needs no root.)"
    )


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        pytest.param({"runc", "ptp", "loopback"}, [], id="nothing is missing where every program is found"),
        pytest.param({"runc"}, ["plugins"], id="a package with two missing programs is named once"),
        pytest.param(set(), ["runc", "plugins"], id="packages come in the order of the list"),
    ],
)
def test_packages_are_named_for_the_programs_that_are_not_there(present: set[str], missing: list[str]):
    tools = (Tool("runc", "runc"), Tool("ptp", "plugins"), Tool("loopback", "plugins"))
    found = requirements.missing_packages(tools, find=lambda name: Path(name) if name in present else None)
    assert found == missing


def test_where_nothing_may_be_installed_the_command_that_would_do_it_is_told():
    with pytest.raises(DevError) as refused:
        requirements.require_tools((Tool("no-such-program", "no-such-package"),), install=False)
    assert str(refused.value) == (
        "This machine lacks no-such-package (the names of Debian's packages). On Debian or Ubuntu: apt-get update && "
        "apt-get install --yes --no-install-recommends no-such-package"
    )


@pytest.mark.parametrize(
    ("routes", "overlapping"),
    [
        pytest.param([{"dst": "default", "dev": "eth0"}], None, id="a default route is no obstacle"),
        pytest.param([{"dst": "10.0.0.0/8", "dev": "vpn0"}], None, id="nor is a private network"),
        pytest.param(
            [{"dst": "198.18.0.0/30", "dev": "x"}], {"dst": "198.18.0.0/30", "dev": "x"}, id="our own link is"
        ),
        pytest.param([{"dst": "198.16.0.0/12", "dev": "y"}], {"dst": "198.16.0.0/12", "dev": "y"}, id="a wider net is"),
        pytest.param([{"dst": "198.19.3.4", "dev": "z"}], {"dst": "198.19.3.4", "dev": "z"}, id="a single address is"),
    ],
)
def test_a_route_into_the_clusters_addresses_is_found(routes: list[dict[str, str]], overlapping: dict[str, str] | None):
    assert requirements.overlapping_route(routes) == overlapping


@pytest.mark.parametrize(
    ("status", "may_lower"),
    [
        pytest.param("CapInh:\t0\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n", True, id="all capabilities"),
        pytest.param("CapInh:\t0\nCapEff:\t000001fffeffffff\nCapBnd:\t0\n", False, id="all but CAP_SYS_RESOURCE"),
    ],
)
def test_the_capability_to_lower_an_oom_score_is_read_from_the_mask(status: str, *, may_lower: bool):
    assert requirements.may_lower_oom_score(status) is may_lower


def test_too_little_room_is_told_with_both_figures_and_the_purpose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=2 * 10**9))
    folder = tmp_path / "not" / "made" / "yet"
    disk.require_free_space(folder, 2, "to fit exactly")
    with pytest.raises(DevError) as refused:
        disk.require_free_space(folder, 9, "to build Kubernetes")
    assert str(refused.value) == (
        f"The disk of {folder} has 2.0 GB free, and 9 GB are needed to build Kubernetes. Make room, or let "
        "XDG_CACHE_HOME name a folder on a larger disk."
    )
