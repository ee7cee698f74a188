"""How a subcommand takes its place in the command line."""

import argparse
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from saffron_quantizer.cli.streams import mention

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 argparse gives it no public name

Run = Callable[[argparse.Namespace], int]

_INTERRUPTED = 128 + signal.SIGINT


def add_command(
    commands: "Commands", name: str, *, summary: str, about: str, run: Run, resumes: bool = True
) -> argparse.ArgumentParser:
    """Add a subcommand. Ctrl-C ends it with 130 and a line on stderr.

    Args:
        commands: where to.
        name: what people type.
        summary: for the list of commands.
        about: for its own help.
        run: does it, and returns the exit code.
        resumes: whether it goes on with what is finished when it is started again.
    """
    parser = commands.add_parser(name, help=summary, description=about, allow_abbrev=False)

    def checked(arguments: argparse.Namespace) -> int:
        arguments.refuse = parser.error
        try:
            return run(arguments)
        except KeyboardInterrupt:
            goes_on = "; the same command goes on with what is finished" if resumes else ""
            mention(f"interrupted{goes_on}")
            return _INTERRUPTED

    parser.set_defaults(run=checked)
    return parser
