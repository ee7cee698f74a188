"""What the pages in docs/ say of names, tables, requests and command lines, compared with the code."""

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tinymodels import support

from saffron_api.failures import FAILURES, ExitCode
from saffron_api.quantized_model import Gates, QuantizedModel
from saffron_operator import engines, reasons, target
from saffron_operator.decide.weights import canary_replicas, share
from saffron_operator.metrics import Metrics, _families
from saffron_operator.observed import Engine, TargetFacts
from saffron_operator.watches import WatchAges
from saffron_quantizer.cli.main import build_parser
from saffron_quantizer.cli.options import file_to_write, gates_file, report_file
from saffron_quantizer.models.architectures import ARCHITECTURES

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.glob("*.md"))
OTHER_PAGES = sorted((*REPOSITORY.glob("*.md"), *REPOSITORY.glob("dev/*.md"), *DOCS.glob("adr/*.md")))

_FENCED = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)]+)\)")
_EXAMPLE = re.compile(r"examples/[\w.-]+\.yaml")
_FIELD = re.compile(r"`(?:qm )?(spec\.[A-Za-z.\[\]]+)")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [text for found, text in _FENCED.findall(page.read_text()) if found == language]


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells, without back-ticks, of all tables below a heading and before the next one of any level."""
    parts = re.split(r"^#+ (.*)$", _FENCED.sub("", (DOCS / page).read_text()), flags=re.MULTILINE)
    text = dict(zip(parts[1::2], parts[2::2], strict=True))[heading]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = [number for number, line in enumerate(lines) if set(line) <= set("|- ")]
    titles = {number - 1 for number in heads} | set(heads)
    return [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for number, line in enumerate(lines)
        if number not in titles
    ]


def anchors(page: Path) -> set[str]:
    """What a link may name after #, by GitHub's rule."""
    headings = re.findall(r"^#+ (.*)$", _FENCED.sub("", page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES], ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_and_every_example_leads_somewhere(page: Path) -> None:
    text = page.read_text()
    links = [link for link in _LINK.findall(text) if "://" not in link]
    dead = []
    for link in links:
        path, _, anchor = link.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            dead.append(link)
    assert dead == []
    assert [name for name in _EXAMPLE.findall(text) if not (REPOSITORY / name).is_file()] == []


def test_the_index_has_every_page() -> None:
    linked = set(_LINK.findall((DOCS / "README.md").read_text()))
    assert {page.name for page in PAGES} - {"README.md"} - linked == set()


def test_the_index_of_decisions_has_each_with_its_title() -> None:
    listed = [line for line in (DOCS / "adr/README.md").read_text().splitlines() if line[:1].isdigit()]
    pages = sorted(DOCS.glob("adr/0*.md"))
    titles = [page.read_text().splitlines()[0].removeprefix("# ").partition(". ") for page in pages]
    assert listed == [
        f"{number}. [{title}]({page.name})" for (number, _, title), page in zip(titles, pages, strict=True)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_field_of_the_spec_that_a_page_names_exists(page: Path) -> None:
    known = set(_FIELD.findall((DOCS / "api.md").read_text()))
    assert set(_FIELD.findall(page.read_text())) - known == set()


REASONS = (
    "Something goes on",
    "Waiting, or done",
    "A person has to act",
    "Of a candidate, a milestone or an event",
)


def test_every_reason_of_a_condition_or_event_is_explained_once() -> None:
    told = [row[0] for heading in REASONS for row in rows("troubleshooting.md", heading)]
    assert sorted(told) == sorted(value for name, value in vars(reasons).items() if name.isupper())


def test_every_failure_is_explained_with_its_exit_code() -> None:
    told = [(row[0], row[1]) for row in rows("troubleshooting.md", "What a Job or the command reports")]
    assert told == [(reason.value, str(int(entry.code))) for reason, entry in FAILURES.items()]


def test_every_exit_code_is_explained() -> None:
    assert [int(row[0]) for row in rows("quantizer.md", "Exit codes")] == [int(code) for code in ExitCode]


def test_every_metric_is_explained() -> None:
    families = Metrics(WatchAges(frozenset())).registry.collect()
    exposed = {f"{each.name}_total" if each.type == "counter" else each.name for each in families}
    assert {row[0] for row in rows("metrics.md", "Metrics")} == exposed


def test_every_label_of_a_metric_of_a_resource_is_explained() -> None:
    shared = {"namespace", "quantizedmodel"}
    told = {
        name: {*further.replace("`", "").split(", ")} - {""} for name, _, further, _ in rows("metrics.md", "Metrics")
    }
    for family in _families().values():
        assert {*family._labelnames} == shared | told[family.name], family.name


def test_the_table_of_weights_is_what_the_operator_computes() -> None:
    weights = (5, 10, 25, 50)
    for row in rows("rollout.md", "Weights"):
        pods, most, *told = row
        canaries = [canary_replicas(int(pods), weight, int(most)) for weight in weights]
        assert told == [f"{canary} ({share(canary, int(pods))})" for canary in canaries]


def test_the_tables_of_models_and_engines_are_the_ones_in_force() -> None:
    told = [tuple(row[:2]) for row in rows("models.md", "Architectures")]
    assert told == [(each.name, each.model_type) for each in ARCHITECTURES]
    assert [tuple(row) for row in rows("models.md", "Engines")] == [
        (each.engine.value, each.what, each.isa, each.needs, each.support.value) for each in engines.TABLE
    ]


def test_what_was_tried_is_what_the_tests_try() -> None:
    """The table is printed by `PYTHONPATH=tests/quantizer .venv/bin/python -m tinymodels.support`."""
    assert support.page() in (DOCS / "models.md").read_text()


def test_every_value_of_the_chart_is_explained() -> None:
    values = yaml.safe_load((REPOSITORY / "charts/saffron/values.yaml").read_text())
    told = {name.strip("` ") for row in rows("install.md", "Values") for name in row[0].split(",")}
    assert told == set(values)


def documents() -> Iterator[Any]:
    for page in PAGES:
        for number, text in enumerate(blocks(page, "yaml"), start=1):
            for document in yaml.safe_load_all(text):
                yield pytest.param(document, id=f"{page.name} {number}")


@pytest.mark.parametrize("document", list(documents()))
def test_every_request_is_one_that_the_api_takes(document: dict[str, Any]) -> None:
    if document.get("kind") == "QuantizedModel":
        QuantizedModel.model_validate(document)
    elif "perplexityRatio" in document:
        Gates.model_validate(document)


def test_the_target_that_a_page_shows_can_be_rolled_out_to_without_a_warning() -> None:
    documents = [yaml.safe_load(text) for text in blocks(DOCS / "rollout.md", "yaml")]
    (deployment,) = (each for each in documents if each.get("kind") == "Deployment")
    (request,) = (
        yaml.safe_load(text) for text in blocks(DOCS / "first-model.md", "yaml") if "QuantizedModel\n" in text
    )
    spec = QuantizedModel.model_validate(request).spec
    assert spec.rollout is not None
    assert deployment["metadata"]["name"] == spec.rollout.target_ref.name
    facts = target.read(deployment, container=spec.rollout.target_ref.container, model_uri=spec.model.uri)
    assert isinstance(facts, TargetFacts)
    assert (facts.engine, facts.model_path, facts.warnings) == (Engine.VLLM, "/models/gemma-3-270m", ())


def command_lines() -> Iterator[Any]:
    for page in PAGES:
        for text in blocks(page, "sh"):
            for line in text.splitlines():
                if line.startswith("saffron "):
                    yield pytest.param(line, id=line)


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


@pytest.mark.parametrize("line", list(command_lines()))
def test_every_command_line_is_one_that_saffron_takes(line: str) -> None:
    parser = build_parser()
    for subcommand in subcommands(parser).values():
        for action in subcommand._actions:
            if action.type in (gates_file, report_file, file_to_write):
                action.type = Path  # the files that a page names, and their folders, are not there
    parser.parse_args(shlex.split(line, comments=True)[1:])


def test_every_subcommand_is_explained() -> None:
    assert [row[0] for row in rows("quantizer.md", "The subcommands")] == list(subcommands(build_parser()))
