"""`saffron compare`: candidates side by side."""

import argparse
import json
from typing import TYPE_CHECKING

from saffron_api.failures import ExitCode
from saffron_quantizer.cli.options import add_gates, report_file
from saffron_quantizer.cli.outcome import told_failures
from saffron_quantizer.cli.streams import mention, say
from saffron_quantizer.cli.subcommand import add_command
from saffron_quantizer.cli.table import comparison
from saffron_quantizer.report import Report, differences, judged

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
        run=told_failures(_run),
        resumes=False,
    )
    parser.add_argument("reports", type=report_file, nargs="+", metavar="FILE", help="a report of `saffron evaluate`")
    add_gates(parser, otherwise="the verdicts in the reports")
    parser.add_argument("--json", action="store_true", help="print the reports as a JSON list (default: as a table)")


def _run(arguments: argparse.Namespace) -> int:
    reports: list[Report] = arguments.reports
    if arguments.gates is not None:
        reports = [judged(report, arguments.gates) for report in reports]
    for what in differences(reports):
        mention(f"warning: these reports are of different {what}")
    if arguments.json:
        say(json.dumps([report.model_dump(mode="json", by_alias=True) for report in reports]))
    else:
        say(comparison(reports))
    return ExitCode.DONE
