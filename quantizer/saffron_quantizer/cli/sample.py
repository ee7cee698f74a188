"""`saffron sample`: draw the calibration, selection and gate sets from a data set."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from saffron_api.quantized_model import RedactKind
from saffron_api.results import SampleResult, SampleSet, Stage
from saffron_quantizer.cli.options import add_model, add_output, choice, whole_number
from saffron_quantizer.cli.outcome import run_stage
from saffron_quantizer.cli.progress import shown_progress
from saffron_quantizer.cli.subcommand import add_command
from saffron_quantizer.cli.text import Outcome, rows

if TYPE_CHECKING:
    from saffron_quantizer.cli.subcommand import Commands

_ABOUT = """Draw three sets from a data set, disjoint by conversation, and write them as tokens. Each line of the data
set is a JSON object with one of "text", "prompt" or "messages", and may have a "conversation"; lines without one are
conversations of their own. Repeated texts are dropped first."""


def add_to(commands: "Commands") -> None:
    """Add the subcommand."""
    parser = add_command(
        commands,
        "sample",
        summary="draw calibration, selection and gate sets from a data set",
        about=_ABOUT,
        run=partial(run_stage, Stage.SAMPLE, work=_work),
    )
    add_model(parser, what="the model whose tokenizer and chat template are used")
    parser.add_argument("--dataset", type=Path, required=True, metavar="FILE", help="the data set, JSONL")
    parser.add_argument(
        "--calibration-samples",
        type=whole_number(1, 100_000),
        default=512,
        metavar="N",
        help="conversations that fit the weights, 1 to 100000 (default: %(default)s)",
    )
    parser.add_argument(
        "--evaluation-samples",
        type=whole_number(1, 100_000),
        default=512,
        metavar="N",
        help="conversations that the gates look at, 1 to 100000; a quarter as many more are the selection set. With "
        "fewer than 30 every verdict on a measured figure is Inconclusive (default: %(default)s)",
    )
    parser.add_argument(
        "--max-tokens",
        type=whole_number(16, 131_072),
        default=2048,
        metavar="N",
        help="tokens that a sequence keeps, from its beginning, 16 to 131072 (default: %(default)s)",
    )
    parser.add_argument(
        "--redact",
        type=choice(RedactKind),
        action="append",
        default=[],
        metavar="KIND",
        help=f"what is replaced before anything is written: {', '.join(RedactKind)}; may be given several times. The "
        "usual forms are found, not every form (default: nothing)",
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**31 - 1),
        default=0,
        metavar="N",
        help="changes which conversation goes to which set, 0 to 2147483647 (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="new folder for calibration.jsonl, selection.jsonl and gate.jsonl, readable by its owner only; if a run "
        "with the same settings finished it, it is only reported",
    )
    add_output(parser)


def _work(arguments: argparse.Namespace) -> Outcome:
    from saffron_quantizer.data.sample import SampleRequest, sample  # noqa: PLC0415 --help need not wait for it

    request = SampleRequest(
        dataset=arguments.dataset,
        model=arguments.model,
        model_digest=arguments.model_digest,
        calibration_samples=arguments.calibration_samples,
        evaluation_samples=arguments.evaluation_samples,
        max_tokens=arguments.max_tokens,
        redact=tuple(sorted(set(arguments.redact))),
        seed=arguments.seed,
    )
    with shown_progress(sys.stderr) as progress:
        result = sample(request, arguments.out, progress)
    return Outcome(result, _text(result))


def _text(result: SampleResult) -> str:
    def told(drawn: SampleSet) -> str:
        return f"{drawn.count} conversations, {drawn.tokens:,} tokens"

    return rows(
        ("calibration", told(result.calibration)), ("selection", told(result.selection)), ("gate", told(result.gate))
    )
