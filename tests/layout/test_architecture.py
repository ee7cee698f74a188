"""ARCHITECTURE.md names files; each of them exists."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
QUOTED = re.compile(r"`([\w./-]+(?:\.(?:py|yaml|toml|md)|/))`")
NAMED = sorted(set(QUOTED.findall((REPOSITORY / "ARCHITECTURE.md").read_text())))
OTHERS = {"awq/mappings.py", "gptq_quantize.py", "_exceptions.py", "policies/", "pkg/specs/"}
"""Files of the projects that we learned from."""


def _known() -> list[str]:
    folders = ("crds", "operator", "quantizer", "kernels", "dev", "charts", "tests", "docs", "benchmarks")
    found = [path for folder in folders for path in (REPOSITORY / folder).rglob("*") if "__pycache__" not in path.parts]
    return [f"/{path.relative_to(REPOSITORY)}{'/' if path.is_dir() else ''}" for path in found]


@pytest.mark.parametrize("name", [name for name in NAMED if name not in OTHERS])
def test_every_file_that_the_map_names_exists(name: str) -> None:
    at_the_root = (REPOSITORY / name).exists()
    assert at_the_root or any(path.endswith(f"/{name}") for path in _known())
