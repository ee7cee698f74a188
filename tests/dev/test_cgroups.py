"""The folders that the cluster has among the kernel's control groups."""

from pathlib import Path

from saffron_dev.cluster import cgroups, settings


def test_cgroup_folders_of_version_1_are_made_in_each_hierarchy_and_removed_with_what_is_below(tmp_path: Path):
    for name in ("memory", "cpuset"):
        (tmp_path / name).mkdir()
    (tmp_path / "cpu").symlink_to("memory")
    cgroups.create(tmp_path)
    (tmp_path / "memory" / settings.CGROUP / "kubepods" / "burstable").mkdir(parents=True)
    made = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*"))
    cgroups.remove(tmp_path)
    assert (made, list(tmp_path.glob("memory/*")), list(tmp_path.glob("cpuset/*"))) == (
        ["cpu/saffron-dev", "cpuset/saffron-dev", "memory/saffron-dev"],
        [],
        [],
    )


def test_in_version_2_the_controller_that_is_not_handed_down_yet_is_handed_down_to_the_one_folder(tmp_path: Path):
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids rdma\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory\n")
    cgroups.create(tmp_path)
    handed_down = (tmp_path / "cgroup.subtree_control").read_text()
    made = [path.name for path in tmp_path.iterdir() if path.is_dir()]
    cgroups.remove(tmp_path)
    left = [path.name for path in tmp_path.iterdir() if path.is_dir()]
    assert (handed_down, made, left) == ("+pids", [settings.CGROUP], [])
