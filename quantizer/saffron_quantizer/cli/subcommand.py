"""How a subcommand takes its place in the command line."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 argparse gives it no public name

Run = Callable[[argparse.Namespace], int]


def add_command(commands: "Commands", name: str, *, summary: str, about: str, run: Run) -> argparse.ArgumentParser:
    """Add a subcommand.

    Args:
        commands: where to.
        name: what people type.
        summary: for the list of commands.
        about: for its own help.
        run: does it, and returns the exit code.
    """
    parser = commands.add_parser(name, help=summary, description=about, allow_abbrev=False)

    def checked(arguments: argparse.Namespace) -> int:
        arguments.refuse = parser.error
        return run(arguments)

    parser.set_defaults(run=checked)
    return parser
