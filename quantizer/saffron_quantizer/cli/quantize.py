"""`saffron quantize`: make a checkpoint."""

import argparse
import os
import sys
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from saffron_api.candidate import CandidateSpec, command_line
from saffron_api.prediction import TENSOR_PARALLEL_SIZES
from saffron_api.results import QuantizeResult, Stage
from saffron_quantizer.cli.candidate import add_candidate, candidate_of
from saffron_quantizer.cli.options import (
    add_device,
    add_original,
    add_output,
    add_sequences,
    device_of,
    gates_file,
    gates_json,
    quantity_of_bytes,
    require_device,
    unchanged,
    whole_number,
)
from saffron_quantizer.cli.outcome import run_stage
from saffron_quantizer.cli.progress import duration, shown_progress
from saffron_quantizer.cli.streams import mention
from saffron_quantizer.cli.subcommand import add_command
from saffron_quantizer.cli.text import Outcome, rows
from saffron_quantizer.destination import Destination, OwnFolder, Store
from saffron_quantizer.readable import size

if TYPE_CHECKING:
    from torch import Tensor

    from saffron_quantizer.cli.subcommand import Commands
    from saffron_quantizer.escalate import Selection
    from saffron_quantizer.quantize_request import QuantizeRequest


def add_to(commands: "Commands") -> None:
    """Add the subcommand."""
    parser = add_command(
        commands,
        "quantize",
        summary="make a smaller checkpoint",
        about="Make a checkpoint in a format that vLLM reads, block by block. A run that was killed goes on with the "
        "first block that is not finished and ends with the same bytes.",
        run=partial(run_stage, Stage.QUANTIZE, work=_work),
    )
    add_original(parser, what="the model")
    add_candidate(parser)
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="what the weights are fitted to: calibration.jsonl of `saffron sample`, or JSONL with text, prompt or "
        "messages; needed by all but RTN, and by RTN with FP8Static, scaleSearch Hessian or kvCache FP8",
    )
    parser.add_argument(
        "--samples",
        type=whole_number(1, 100_000),
        metavar="N",
        help="conversations of it that are used, 1 to 100000 (default: all)",
    )
    _add_selection(parser)
    add_sequences(parser)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the checkpoint, new or our own unfinished one"
    )
    where.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="instead of --out: folder of all checkpoints; this one becomes the folder in it that its digest names",
    )
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="folder that remembers the result, so that a second run only reports it (default: none)",
    )
    parser.add_argument(
        "--activation-memory",
        type=quantity_of_bytes,
        metavar="BYTES",
        help="activations beyond so many bytes, as 2Gi, are kept in a file in --work, or else in the checkpoint's "
        "folder, instead of in memory; it changes the time and no bit of the checkpoint (default: half of the memory "
        "that is free and that the weights do not need)",
    )
    add_device(parser, otherwise="cpu")
    parser.add_argument(
        "--tensor-parallel",
        type=int,
        choices=TENSOR_PARALLEL_SIZES,
        metavar="N",
        help="GPUs that are to serve the checkpoint together, 1, 2, 4 or 8, as vLLM's --tensor-parallel-size; one that "
        "so many can't share is refused before any work (default: not asked)",
    )
    add_output(parser)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--selection",
        type=Path,
        metavar="FILE",
        help="what the limits are to hold on, for a candidate that is escalated: selection.jsonl of `saffron sample`, "
        "or JSONL that shares no text with the gate set (default: none)",
    )
    limits = parser.add_mutually_exclusive_group()
    limits.add_argument(
        "--gates",
        type=gates_file,
        metavar="FILE",
        help="the limits for a candidate that is escalated, in YAML, as under `gates` in a QuantizedModel (default: "
        "none)",
    )
    limits.add_argument(
        "--gates-json", dest="gates", type=gates_json, metavar="JSON", help="the same, as JSON (default: none)"
    )


def _work(arguments: argparse.Namespace) -> Outcome:
    spec = candidate_of(arguments)
    if spec.needs_calibration and arguments.calibration is None:
        arguments.refuse(f"--calibration is needed by {' '.join(command_line(spec))}")
    needed = {"--selection": arguments.selection, "--gates": arguments.gates}
    for option, value in needed.items():
        if spec.escalate is not None and value is None:
            arguments.refuse(f"{option} is needed by {' '.join(command_line(spec))}")
        if spec.escalate is None and value is not None:
            arguments.refuse(f"{option} is of use only with --escalate-max-bytes-ratio")
    if not spec.needs_calibration and arguments.calibration is not None:
        mention(f"note: --calibration is not read, for {' '.join(command_line(spec))} needs no data")
    require_device(arguments)
    from saffron_quantizer.atomic import private_folder  # noqa: PLC0415 - not for --help, as all below
    from saffron_quantizer.memory import keep_memory_small  # noqa: PLC0415

    keep_memory_small()
    if arguments.tensor_parallel is not None:
        _require_cards(arguments.model, spec, arguments.tensor_parallel)
    if arguments.work is not None:
        private_folder(arguments.work)
    destination = OwnFolder(arguments.out) if arguments.store is None else Store(arguments.store)
    result = _made(arguments, spec, destination)
    return Outcome(result, _text(result))


def _require_cards(model: Path, spec: CandidateSpec, cards: int) -> None:
    """Refuse what so many can't share, also if it was made by an earlier run that was not asked for it."""
    from saffron_quantizer.checkpoint.reader import CheckpointReader  # noqa: PLC0415
    from saffron_quantizer.plan import make_plan  # noqa: PLC0415
    from saffron_quantizer.tensor_parallel import require_cards  # noqa: PLC0415

    reader = CheckpointReader(model)
    require_cards(reader, make_plan(reader, spec), cards)


def _made(arguments: argparse.Namespace, spec: CandidateSpec, destination: Destination) -> QuantizeResult:
    with unchanged(arguments.model, arguments) as digest, shown_progress(sys.stderr) as progress:
        # Torch takes seconds.
        from saffron_quantizer.progress import ignore  # noqa: PLC0415
        from saffron_quantizer.quantize import quantize  # noqa: PLC0415
        from saffron_quantizer.ranks import joined  # noqa: PLC0415
        from saffron_quantizer.reported import reported  # noqa: PLC0415

        request = cache(lambda: _request(arguments, spec, digest()))
        # Before the processes meet: one that starts again after the first has ended would wait for nobody.
        finished = reported(destination, arguments.work, lambda: request().told())
        if finished is not None:
            return finished
        device = device_of(arguments)
        with joined(os.environ, arguments.work, device=device) as ranks:
            return quantize(
                request(),
                destination,
                progress if ranks.is_first else ignore,
                work=arguments.work,
                activation_memory=arguments.activation_memory,
                ranks=ranks,
                device=device,
            )


def _request(arguments: argparse.Namespace, spec: CandidateSpec, model_digest: str) -> "QuantizeRequest":
    from saffron_quantizer.quantize_request import QuantizeRequest  # noqa: PLC0415

    return QuantizeRequest(
        model=arguments.model,
        spec=spec,
        sequences=_calibration(arguments) if spec.needs_calibration else None,
        selection=_selection(arguments) if spec.escalate is not None else None,
        model_digest=model_digest,
    )


def _calibration(arguments: argparse.Namespace) -> "list[Tensor]":
    import torch  # noqa: PLC0415

    from saffron_quantizer.data.sequences import check_vocabulary, load_sequences  # noqa: PLC0415

    sequences = load_sequences(
        arguments.calibration, arguments.model, samples=arguments.samples, max_tokens=arguments.max_tokens
    )
    check_vocabulary(sequences, arguments.model, arguments.calibration)
    return [torch.tensor(sequence.tokens, dtype=torch.int64) for sequence in sequences]


def _selection(arguments: argparse.Namespace) -> "Selection":
    from saffron_quantizer.escalate import Selection  # noqa: PLC0415
    from saffron_quantizer.evaluation.window import load_gate_set  # noqa: PLC0415

    sequences = load_gate_set(arguments.selection, arguments.model, max_tokens=arguments.max_tokens)
    return Selection(sequences, arguments.gates)


def _text(result: QuantizeResult) -> str:
    return rows(
        ("digest", result.checkpoint_digest),
        ("size", size(result.bytes)),
        ("quantized linears", str(result.modules)),
        ("largest damping", f"{result.max_damping:g}"),
        ("dead columns", str(result.dead_columns)),
        ("time", duration(result.seconds)),
        ("peak memory", size(result.peak_bytes)),
    )
