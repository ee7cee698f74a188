"""`saffron compare`: candidates side by side."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from saffron_api.failures import ExitCode
from saffron_quantizer.cli.options import gates_file
from saffron_quantizer.cli.subcommand import add_command
from saffron_quantizer.cli.table import comparison
from saffron_quantizer.report import Report, judged

if TYPE_CHECKING:
    from saffron_quantizer.cli.subcommand import Commands


def add_to(commands: "Commands") -> None:
    """Add the subcommand."""
    parser = add_command(
        commands,
        "compare",
        summary="print reports of several candidates side by side",
        about="Print the reports that `saffron evaluate` wrote as one table, smallest candidate first, with the "
        "bounds of each figure and the verdict.",
        run=_run,
    )
    parser.add_argument("reports", type=_report, nargs="+", metavar="FILE", help="a report of `saffron evaluate`")
    parser.add_argument(
        "--gates",
        type=gates_file,
        metavar="FILE",
        help="limits in YAML to judge all by, as under `gates` in a QuantizedModel (default: the verdicts in the "
        "reports)",
    )
    parser.add_argument("--json", action="store_true", help="print the reports as a JSON list (default: as a table)")


def _report(text: str) -> Report:
    try:
        return Report.model_validate_json(Path(text).read_bytes())
    except OSError as error:
        raise argparse.ArgumentTypeError(f"can't read {text}: {error.strerror}") from error
    except ValidationError as error:
        raise argparse.ArgumentTypeError(f"{text} is not a report of saffron evaluate") from error


def _run(arguments: argparse.Namespace) -> int:
    reports: list[Report] = arguments.reports
    if arguments.gates is not None:
        reports = [judged(report, arguments.gates) for report in reports]
    _warn_of_differences(reports)
    if arguments.json:
        print(json.dumps([report.model_dump(mode="json", by_alias=True) for report in reports]))
    else:
        print(comparison(reports))
    return ExitCode.DONE


def _warn_of_differences(reports: list[Report]) -> None:
    """Figures of other data or another original can't be compared, and the reader must know."""
    for what, values in (
        ("originals", {report.fingerprint.settings.model_digest for report in reports}),
        ("data", {report.fingerprint.settings.data_digest for report in reports}),
        ("levels of confidence", {report.fingerprint.settings.confidence for report in reports}),
    ):
        if len(values) > 1:
            print(f"warning: these reports are of different {what}", file=sys.stderr)
