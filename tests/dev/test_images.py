"""When an image is built again, and with what command."""

from pathlib import Path

import pytest

from saffron_dev import images


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name, content in {
        "Dockerfile": "FROM x",
        "uv.lock": "1",
        "crds/a.py": "a",
        "operator/b.py": "b",
        "operator/__pycache__/b.pyc": "cache",
        "docs/c.md": "c",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "built_again"),
    [
        pytest.param("Dockerfile", True, id="another Dockerfile makes another image"),
        pytest.param("uv.lock", True, id="another lock file makes another image"),
        pytest.param("operator/b.py", True, id="another source that goes in makes another image"),
        pytest.param("operator/new.py", True, id="a new source that goes in makes another image"),
        pytest.param("operator/__pycache__/b.pyc", False, id="Python's caches do not go in"),
        pytest.param("docs/c.md", False, id="a file that does not go in changes nothing"),
    ],
)
def test_the_digest_of_inputs_changes_with_what_goes_in(repository: Path, changed: str, *, built_again: bool):
    before = images.digest_of_inputs(repository, images.TARGETS["operator"])
    (repository / changed).write_text("something else")
    after = images.digest_of_inputs(repository, images.TARGETS["operator"])
    assert (before != after) is built_again


@pytest.mark.parametrize(
    ("certificates", "extra"),
    [
        pytest.param(None, set(), id="without a proxy's certificates nothing is mounted"),
        pytest.param(
            "/etc/ssl/certs/ca.crt",
            {"--volume=/etc/ssl/certs:/etc/ssl/certs:ro", "--build-arg=SSL_CERT_FILE=/etc/ssl/certs/ca.crt"},
            id="a proxy's certificates are mounted and named, and stay out of the image",
        ),
    ],
)
def test_the_build_command_names_target_base_and_certificates(certificates: str | None, extra: set[str]):
    command = images.build_command("operator", "localhost/saffron-operator:dev", certificates)
    assert set(command[1:]) == extra | {
        "build",
        "--layers",
        "--isolation=chroot",
        "--network=host",
        "--build-arg=BASE=localhost/python:3.11-slim",
        "--target=operator",
        "--tag=localhost/saffron-operator:dev",
        "--file=Dockerfile",
        ".",
    }
