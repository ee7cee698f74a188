"""`saffron report`: reports as a page of HTML and as a model card."""

import argparse
from typing import TYPE_CHECKING

from saffron_api.failures import ExitCode
from saffron_api.quantized_model import Selection
from saffron_quantizer.cli.options import add_gates, choice, file_to_write, report_file
from saffron_quantizer.cli.outcome import told_failures
from saffron_quantizer.cli.streams import mention
from saffron_quantizer.cli.subcommand import add_command
from saffron_quantizer.report import Report, judged

if TYPE_CHECKING:
    from saffron_quantizer.cli.subcommand import Commands


def add_to(commands: "Commands") -> None:
    """Add the subcommand."""
    parser = add_command(
        commands,
        "report",
        summary="make a page of HTML and a model card from reports",
        about="Show the reports that `saffron evaluate` wrote as one page of HTML, which needs nothing from elsewhere, "
        "and as a model card for the Hugging Face hub. Neither holds a word of the data.",
        run=told_failures(_run),
        resumes=False,
    )
    parser.add_argument("reports", type=report_file, nargs="+", metavar="FILE", help="a report of `saffron evaluate`")
    parser.add_argument("--html", type=file_to_write, metavar="FILE", help="file for the page (default: none)")
    parser.add_argument(
        "--card",
        type=file_to_write,
        metavar="FILE",
        help="file for the model card of the first report's checkpoint, Markdown, as README.md; the other reports are "
        "what it is compared with (default: none)",
    )
    parser.add_argument(
        "--base-model",
        metavar="NAME",
        help="the original's name on the hub, for the card, as google/gemma-3-270m (default: only its digest is told)",
    )
    parser.add_argument(
        "--title", default="What quantizing costs", metavar="TEXT", help="of page and card (default: %(default)s)"
    )
    add_gates(parser, otherwise="the verdicts in the reports")
    parser.add_argument(
        "--selection",
        type=choice(Selection),
        default=Selection.SMALLEST,
        metavar="RULE",
        help=f"which of those that pass is pointed out: {', '.join(Selection)}, in any case (default: %(default)s)",
    )


def _run(arguments: argparse.Namespace) -> int:
    if arguments.html is None and arguments.card is None:
        arguments.refuse("give --html, --card or both")
    from saffron_quantizer.atomic import write_file  # noqa: PLC0415 the others are light, too, but not needed for --help
    from saffron_quantizer.card import model_card  # noqa: PLC0415
    from saffron_quantizer.page.document import page  # noqa: PLC0415

    reports: list[Report] = arguments.reports
    if arguments.gates is not None:
        reports = [judged(report, arguments.gates) for report in reports]
    if arguments.html is not None:
        text = page(reports, title=arguments.title, selection=arguments.selection)
        write_file(arguments.html, text.encode())
        mention(f"page: {arguments.html}")
    if arguments.card is not None:
        text = model_card(reports[0], reports[1:], title=arguments.title, base_model=arguments.base_model)
        write_file(arguments.card, text.encode())
        mention(f"card: {arguments.card}")
    return ExitCode.DONE
