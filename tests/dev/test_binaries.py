"""Where the cluster's programs are looked for."""

from pathlib import Path

import pytest

from saffron_dev import binaries
from saffron_dev.gotoolchain import parse_version


def test_kubebuilder_assets_come_before_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assets, cache = tmp_path / "assets", tmp_path / "cache"
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    cached = binaries.KUBERNETES.cache()
    for folder, name in ((assets, "etcd"), (cached, "etcd"), (cached, "kubectl")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert binaries.binaries("etcd", "kubectl") == {"etcd": assets / "etcd", "kubectl": cached / "kubectl"}


def test_another_go_mod_or_another_source_is_another_folder_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(binaries, "SOURCES", tmp_path)
    (tmp_path / "addons").mkdir()
    folders = []
    for file, content in (("go.mod", "module a"), ("go.sum", ""), ("main.go", "package main"), ("main.go", "//")):
        (tmp_path / "addons" / file).write_text(content)
        folders.append(binaries.ADDONS.cache())
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        pytest.param("go version go1.26.8 linux/amd64\n", (1, 26), id="a release"),
        pytest.param("go version go1.27rc1 linux/amd64\n", (1, 27), id="a release candidate"),
        pytest.param("go version devel +7c5d0e linux/amd64\n", None, id="a development version has none"),
        pytest.param("", None, id="a program that prints nothing has none"),
    ],
)
def test_the_version_of_go_is_read_from_what_it_prints(printed: str, version: tuple[int, int] | None):
    assert parse_version(printed) == version
