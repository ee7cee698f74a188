"""`saffron inspect`: check a model folder, hash it, and predict the sizes of candidates."""

import argparse
from functools import partial
from typing import TYPE_CHECKING

from pydantic import ValidationError

from saffron_api.quantized_model import Candidate
from saffron_api.results import InspectResult, PredictedSize, Stage
from saffron_quantizer.cli.options import add_folder, add_hash_cache, add_output, refusals
from saffron_quantizer.cli.outcome import run_stage
from saffron_quantizer.cli.subcommand import add_command
from saffron_quantizer.cli.text import Outcome, rows
from saffron_quantizer.readable import size

if TYPE_CHECKING:
    from saffron_quantizer.cli.subcommand import Commands


def add_to(commands: "Commands") -> None:
    """Add the subcommand."""
    parser = add_command(
        commands,
        "inspect",
        summary="check a model folder and predict the size of each candidate",
        about="Check a model folder, compute its digest, and predict the bytes of each candidate from shapes alone.",
        run=partial(run_stage, Stage.INSPECT, work=_work),
    )
    add_folder(parser)
    parser.add_argument(
        "--candidate",
        type=_candidate,
        action="append",
        default=[],
        metavar="JSON",
        help='a candidate to predict, as {"name": "int4", "method": "GPTQ", "scheme": "W4A16", "groupSize": 128}; '
        "may be given several times (default: none)",
    )
    add_hash_cache(parser)
    add_output(parser)


def _candidate(text: str) -> Candidate:
    try:
        return Candidate.model_validate_json(text)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(refusals(error)) from error


def _work(arguments: argparse.Namespace) -> Outcome:
    from saffron_quantizer.inspect import inspect_model  # noqa: PLC0415 torch takes seconds that --help need not wait

    candidates = [(candidate.name, candidate.recipe) for candidate in arguments.candidate]
    result = inspect_model(arguments.model, candidates, hash_cache=arguments.hash_cache)
    return Outcome(result, _text(result))


def _text(result: InspectResult) -> str:
    return rows(
        ("architecture", result.architecture),
        ("parameters", f"{result.parameters:,}"),
        ("size", size(result.bytes)),
        ("digest", result.model_digest),
        ("processor", result.isa),
        *((each.name, _prediction(each, result)) for each in result.predicted),
    )


def _prediction(predicted: PredictedSize, result: InspectResult) -> str:
    if predicted.bytes is None:
        return predicted.failure.message if predicted.failure is not None else "unknown"
    share = f"{size(predicted.bytes)}, {predicted.bytes / result.bytes:.3f}"
    if predicted.gpu_capability is None:
        return share
    return f"{share}, on a GPU from capability {predicted.gpu_capability / 10:.1f}"
