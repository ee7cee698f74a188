"""`saffron baseline`: the original on the gate set, once for all candidates."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from saffron_api.results import BaselineResult, Stage
from saffron_quantizer.cli.options import (
    add_device,
    add_gate_set,
    add_original,
    add_output,
    device_of,
    require_device,
    unchanged,
)
from saffron_quantizer.cli.outcome import run_stage
from saffron_quantizer.cli.progress import shown_progress
from saffron_quantizer.cli.subcommand import add_command
from saffron_quantizer.cli.text import Outcome, rows

if TYPE_CHECKING:
    from saffron_quantizer.cli.subcommand import Commands


def add_to(commands: "Commands") -> None:
    """Add the subcommand."""
    parser = add_command(
        commands,
        "baseline",
        summary="compute the original on the gate set once for all candidates",
        about="Compute the original's final hidden states on the gate set, and of its distributions over the "
        "vocabulary what a comparison needs, so that no evaluation computes them again. At most 65536 tokens are "
        "scored.",
        run=partial(run_stage, Stage.BASELINE, work=_work),
    )
    add_original(parser)
    add_gate_set(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="new folder for what is computed, readable by its owner only; if a run with the same model and data "
        "finished it, it is only reported",
    )
    add_device(parser, otherwise="cpu")
    add_output(parser)


def _work(arguments: argparse.Namespace) -> Outcome:
    require_device(arguments)
    with unchanged(arguments.model, arguments) as digest, shown_progress(sys.stderr) as progress:
        # Torch takes seconds that --help need not wait for.
        from saffron_quantizer.evaluation.baseline import BaselineRequest, baseline  # noqa: PLC0415
        from saffron_quantizer.evaluation.window import load_gate_set  # noqa: PLC0415

        sequences = load_gate_set(arguments.data, arguments.model, max_tokens=arguments.max_tokens)
        request = BaselineRequest(digest(), sequences)
        result = baseline(arguments.model, request, arguments.out, progress, device=device_of(arguments))
    return Outcome(result, _text(result))


def _text(result: BaselineResult) -> str:
    return rows(("perplexity", f"{result.perplexity:.4f}"), ("scored tokens", f"{result.scored_tokens:,}"))
