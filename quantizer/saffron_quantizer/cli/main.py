"""The entry point of `saffron`."""

import argparse
import gc
import sys
from collections.abc import Sequence
from importlib.metadata import version

from saffron_quantizer.cli import baseline, compare, evaluate, generate, inspect, quantize, report, run, sample
from saffron_quantizer.cli.outcome import end_at_sigterm
from saffron_quantizer.cli.streams import open_standard_streams
from saffron_quantizer.memory import share_one_heap

_EPILOG = """\
exit codes:
  0 done    1 bug, or reading or writing failed    2 usage    10 request    11 data set    12 model
  13 storage full    14 input changed    15 too little memory    16 unsupported
  20 verdict Fail    21 verdict Inconclusive (both only of run and of evaluate --exit-verdict)

`saffron COMMAND --help` explains every option.
"""

_COLLECT_AFTER = 50_000
"""New objects after which cycles among them are looked for. Imports make some hundred thousand that stay, and to go
through them after every few hundred, as Python does by default, takes a second of each start."""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="saffron",
        description="Make a language model's checkpoint smaller, and measure what that costs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('saffron-quantizer')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (inspect, sample, baseline, quantize, evaluate, compare, report, run, generate):
        command.add_to(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    open_standard_streams()
    gc.set_threshold(_COLLECT_AFTER)
    share_one_heap()
    end_at_sigterm()
    arguments = build_parser().parse_args(argv)
    sys.exit(arguments.run(arguments))
