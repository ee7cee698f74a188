"""`saffron inspect`: check a model folder, hash it, and predict the sizes of candidates."""

import argparse
from functools import partial
from typing import TYPE_CHECKING

from pydantic import ValidationError

from saffron_api.quantized_model import Candidate
from saffron_api.results import InspectResult, PredictedNeeds, PredictedSize, Stage
from saffron_api.spec import DEFAULT_MAX_TOKENS, DEFAULT_SAMPLES
from saffron_quantizer.cli.options import add_folder, add_hash_cache, add_output, refusals, whole_number
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
        about="Check a model folder, compute its digest, and predict from shapes alone the bytes of each candidate, "
        "how many cards can serve it together, and what memory and disk making it needs.",
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
    for option, default, most, what in (
        ("--calibration-samples", DEFAULT_SAMPLES, 100_000, "sequences that candidates will be calibrated on"),
        ("--max-tokens", DEFAULT_MAX_TOKENS, 131_072, "tokens that each will have"),
    ):
        parser.add_argument(
            option,
            type=whole_number(1, most),
            default=default,
            metavar="N",
            help=f"{what}, 1 to {most}; decides what making one needs (default: %(default)s)",
        )
    add_hash_cache(parser)
    add_output(parser)


def _candidate(text: str) -> Candidate:
    try:
        return Candidate.model_validate_json(text)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(refusals(error)) from error


def _work(arguments: argparse.Namespace) -> Outcome:
    # Torch takes seconds that --help need not wait for.
    from saffron_quantizer.inspect import Calibration, inspect_model  # noqa: PLC0415

    candidates = [(candidate.name, candidate.recipe) for candidate in arguments.candidate]
    calibration = Calibration(arguments.calibration_samples, arguments.max_tokens)
    result = inspect_model(arguments.model, candidates, hash_cache=arguments.hash_cache, calibration=calibration)
    return Outcome(result, told(result))


def told(result: InspectResult) -> str:
    """The result for people."""
    return rows(
        ("architecture", result.architecture),
        ("parameters", f"{result.parameters:,}"),
        ("size", size(result.bytes)),
        ("digest", result.model_digest),
        ("processor", result.isa),
        *(row for each in result.predicted for row in _rows(each, result)),
    )


def _rows(predicted: PredictedSize, result: InspectResult) -> list[tuple[str, str]]:
    first = (predicted.name, _prediction(predicted, result))
    return [first] if predicted.needs is None else [first, ("  to make it", _needs(predicted.needs))]


def _prediction(predicted: PredictedSize, result: InspectResult) -> str:
    if predicted.bytes is None:
        return predicted.failure.message if predicted.failure is not None else "unknown"
    share = f"{size(predicted.bytes)}, {predicted.bytes / result.bytes:.3f}"
    cards = predicted.tensor_parallel
    served = [
        f"on GPUs from capability {predicted.gpu_capability / 10:.1f}" if predicted.gpu_capability is not None else "",
        f"on up to {cards} together" if cards is not None and cards > 1 else "on one alone" if cards == 1 else "",
    ]
    return ", ".join([share, *filter(None, served)])


def _needs(needs: PredictedNeeds) -> str:
    activations = f", {size(needs.activations)} for activations" if needs.activations else ""
    return f"{size(needs.memory)} of memory{activations}, {size(needs.disk)} on the disk"
