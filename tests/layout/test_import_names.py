"""Import names: our folders `operator`, `kernels` and `dev/kubernetes` must never stand in for somebody's module.

A folder without `__init__.py` gives way to any real module of its name, wherever it is on the path. One empty file in
the wrong place ends that: with `operator/__init__.py`, `python -m pytest` dies before it says a word, while plain
`pytest` still passes and so hides it.
"""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MEMBERS = ("operator", "quantizer", "kernels", "crds", "dev")
HIDDEN = frozenset({".venv", ".git"})


def misplaced(repository: Path) -> list[str]:
    """Every `__init__.py` that would make an import name of a folder that must not be one."""
    tops = [repository / member / "__init__.py" for member in MEMBERS]
    addons = [path for member in MEMBERS for path in (repository / member).glob("[!s]*/**/__init__.py")]
    under_tests = sorted((repository / "tests").rglob("__init__.py"))
    found = [*tops, *addons, *under_tests, repository / "__init__.py"]
    return sorted(str(path.relative_to(repository)) for path in set(found) if path.is_file())


def test_no_folder_that_must_not_be_a_package_is_one() -> None:
    assert misplaced(REPOSITORY) == []


BAD_PLACES = (
    "__init__.py",
    "operator/__init__.py",
    "kernels/__init__.py",
    "dev/kubernetes/__init__.py",
    "tests/__init__.py",
    "tests/operator/__init__.py",
)


@pytest.mark.parametrize("place", BAD_PLACES)
def test_the_guard_finds_one(place: str, tmp_path: Path) -> None:
    for name in (place, "operator/saffron_operator/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert misplaced(tmp_path) == [place]


def test_every_member_has_one_package_of_our_prefix() -> None:
    packages = {
        member: sorted(path.parent.name for path in (REPOSITORY / member).glob("*/__init__.py")) for member in MEMBERS
    }
    assert packages == {member: [f"saffron_{'api' if member == 'crds' else member}"] for member in MEMBERS}


# Every name that a folder or a file of ours has in common with a module of Python's or of a dependency.
SHARED_NAMES = ("operator", "inspect", "queue", "kubernetes")
STRANGERS = """
import importlib.util, sys
for name in sys.argv[1:]:
    found = importlib.util.find_spec(name)
    print(name, found and found.origin)
"""


def is_ours(origin: Path) -> bool:
    """Whether a module's file is the repository's own, and not its virtual environment's."""
    return origin.is_relative_to(REPOSITORY) and HIDDEN.isdisjoint(origin.relative_to(REPOSITORY).parts)


WAYS = {
    "in the repository's root": REPOSITORY,
    **{f"in {member}/": REPOSITORY / member for member in MEMBERS},
    "in tests/": REPOSITORY / "tests",
}


@pytest.mark.parametrize("folder", WAYS.values(), ids=WAYS.keys())
def test_names_that_we_share_are_never_ours(folder: Path) -> None:
    command = [sys.executable, "-c", STRANGERS, *SHARED_NAMES]
    done = subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True
    )
    origins = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert {name: is_ours(Path(origin)) for name, origin in origins.items()} == dict.fromkeys(SHARED_NAMES, False)


def test_transformers_does_not_take_our_kernels_folder_for_the_kernels_library() -> None:
    # Two releases of it raised InvalidVersion here, for a folder that has no version.
    question = "from transformers.utils import is_kernels_available; print(is_kernels_available())"
    done = subprocess.run([sys.executable, "-c", question], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr
