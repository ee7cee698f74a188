"""README.md shows a request and points at pages: the request is a good one, and the pages are there."""

import re
from pathlib import Path

import yaml

from saffron_api.quantized_model import QuantizedModel

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text()


def test_the_request_that_the_readme_shows_is_accepted():
    (block,) = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    request = QuantizedModel.model_validate(yaml.safe_load(block))
    assert [candidate.name for candidate in request.spec.candidates] == ["rtn-int4", "gptq-int4", "int8"]


def test_every_page_that_the_readme_points_at_exists():
    pages = re.findall(r"\]\(([^)#:]+)\)", README)
    assert pages
    assert [page for page in pages if not (REPOSITORY / page).exists()] == []


def test_the_targets_that_the_readme_names_exist():
    makefile = (REPOSITORY / "Makefile").read_text()
    named = re.findall(r"^make (\w+)", README, re.MULTILINE)
    assert named == ["demo", "test"]
    assert [name for name in named if f"\n{name}: " not in makefile] == []
