"""Write what is generated from the API types, or check that it is up to date.

python -m saffron_api.generate            write
python -m saffron_api.generate --check    exit with 1 if a file differs from what would be written
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from saffron_api.crd import custom_resource_definition
from saffron_api.reference import reference
from saffron_api.yaml_text import to_yaml

REPOSITORY = Path(__file__).resolve().parents[2]
CRD_PATH = Path("crds/saffron_api/quantizedmodels.saffron.dev.yaml")
CHART_PATH = Path("charts/saffron/files/quantizedmodels.saffron.dev.yaml")
REFERENCE_PATH = Path("docs/api.md")

_HEADER = "# Made by `python -m saffron_api.generate` from the types in crds/saffron_api; edit those.\n"


def generated() -> dict[Path, str]:
    """The text of every generated file, by its path in the repository.

    The chart has a copy of its own, since Helm packs nothing from outside a chart's folder.
    """
    crd = custom_resource_definition()
    text = _HEADER + to_yaml(crd)
    return {CRD_PATH: text, CHART_PATH: text, REFERENCE_PATH: reference(crd)}


def out_of_date(repository: Path) -> list[Path]:
    """The generated files that are missing or differ from what would be written."""
    return [
        path
        for path, text in generated().items()
        if not (repository / path).is_file() or (repository / path).read_text(encoding="utf-8") != text
    ]


def write(repository: Path) -> list[Path]:
    """Write the generated files that are out of date, and return their paths."""
    changed = out_of_date(repository)
    texts = generated()
    for path in changed:
        (repository / path).parent.mkdir(parents=True, exist_ok=True)
        (repository / path).write_text(texts[path], encoding="utf-8")
    return changed


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m saffron_api.generate", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is out of date")
    parser.add_argument("--repository", type=Path, default=REPOSITORY, help="root of the repository (%(default)s)")
    options = parser.parse_args(arguments)
    if not options.check:
        for path in write(options.repository):
            sys.stdout.write(f"wrote {path}\n")
        return 0
    stale = out_of_date(options.repository)
    for path in stale:
        sys.stderr.write(f"{path} is out of date: run python -m saffron_api.generate and commit what it writes\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
