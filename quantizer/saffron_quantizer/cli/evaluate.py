"""`saffron evaluate`: measure a checkpoint against its original."""

import argparse
import importlib.util
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from saffron_api.failures import ExitCode
from saffron_api.quantized_model import Gates, Verdict
from saffron_api.results import Stage
from saffron_quantizer.cli.options import (
    add_device,
    add_gate_set,
    add_gates,
    add_original,
    add_output,
    device_of,
    engine_url,
    level,
    require_device,
    unchanged,
)
from saffron_quantizer.cli.outcome import run_stage
from saffron_quantizer.cli.progress import shown_progress
from saffron_quantizer.cli.subcommand import add_command
from saffron_quantizer.cli.table import report_text
from saffron_quantizer.cli.text import Outcome
from saffron_quantizer.engine_address import Engine
from saffron_quantizer.report import Report, finished_report, judged, to_json

if TYPE_CHECKING:
    from saffron_quantizer.cli.subcommand import Commands

_CONFIDENCE: float = Gates.model_fields["confidence"].default
_VERDICT_CODES = {
    Verdict.FAIL: ExitCode.VERDICT_FAIL,
    Verdict.INCONCLUSIVE: ExitCode.VERDICT_INCONCLUSIVE,
}


def add_to(commands: "Commands") -> None:
    """Add the subcommand."""
    parser = add_command(
        commands,
        "evaluate",
        summary="measure a checkpoint against its original",
        about="Read a written checkpoint again, pair it with its original on the gate set token by token, and tell "
        "perplexity ratio, KL divergence, agreement of the top token and size, with one-sided confidence bounds "
        "resampled by conversation.",
        run=partial(run_stage, Stage.EVALUATE, work=_work),
    )
    add_original(parser, name="--original", what="the original model")
    parser.add_argument(
        "--candidate", type=Path, required=True, metavar="DIR", help="the checkpoint that `saffron quantize` wrote"
    )
    add_gate_set(parser)
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="DIR",
        help="what `saffron baseline` wrote for this model and this data (default: the original is computed here)",
    )
    _add_engine(parser)
    parser.add_argument(
        "--tasks",
        type=Path,
        metavar="DIR",
        help="folder with tasks of lm-evaluation-harness in YAML, their data beside them, that both models are to do; "
        "needs the extra `tasks` of saffron-quantizer (default: none)",
    )
    _add_verdict(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="file for the report, JSON; one with the same settings is used again and only judged anew (default: none)",
    )
    add_device(parser, otherwise="cpu")
    add_output(parser)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine-url",
        type=engine_url,
        metavar="URL",
        help="API of a running vLLM that serves the candidate, as http://localhost:8000/v1: its log-probabilities are "
        "measured instead of ours, which tells perplexity and size only. The tokens of the gate set are sent there "
        "(default: the candidate is computed here)",
    )
    parser.add_argument(
        "--engine-model",
        metavar="NAME",
        help="the name under which it serves the candidate; needed by --engine-url (default: none)",
    )


def _add_verdict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--confidence",
        type=level,
        metavar="SHARE",
        help="level of each one-sided bound, 0.5 to 0.99999; for k candidates at 0.95 together give 1-0.05/k "
        "(default: `confidence` of --gates, else 0.95)",
    )
    add_gates(parser, otherwise="figures without a verdict")
    parser.add_argument(
        "--exit-verdict",
        action="store_true",
        help="exit with 20 on Fail and 21 on Inconclusive; needs --gates (default: exit with 0 on any verdict)",
    )


def _work(arguments: argparse.Namespace) -> Outcome:
    gates: Gates | None = arguments.gates
    if arguments.exit_verdict and gates is None:
        arguments.refuse("--exit-verdict needs --gates")
    if (arguments.engine_url is None) != (arguments.engine_model is None):
        arguments.refuse("--engine-url and --engine-model need each other")
    if arguments.tasks is not None and arguments.engine_url is not None:
        arguments.refuse("--tasks are done here, not by the engine of --engine-url")
    if arguments.tasks is not None and importlib.util.find_spec("lm_eval") is None:
        arguments.refuse("--tasks needs lm-evaluation-harness: install saffron-quantizer[tasks]")
    require_device(arguments)
    confidence = arguments.confidence or (_CONFIDENCE if gates is None else gates.confidence)
    report = _report(arguments, confidence)
    if gates is not None:
        report = judged(report, gates)
    if arguments.out is not None:
        from saffron_quantizer.atomic import PRIVATE_FILE, write_file  # noqa: PLC0415

        write_file(arguments.out, to_json(report).encode(), mode=PRIVATE_FILE)
    code = _VERDICT_CODES.get(report.verdict) if arguments.exit_verdict and report.verdict else None
    return Outcome(report.result, report_text(report), code or ExitCode.DONE)


def _report(arguments: argparse.Namespace, confidence: float) -> Report:
    from saffron_quantizer.atomic import private_folder, require_writable  # noqa: PLC0415 - not for --help

    if arguments.out is not None and not arguments.out.parent.is_dir():
        private_folder(arguments.out.parent)
    engine = None if arguments.engine_url is None else Engine(url=arguments.engine_url, model=arguments.engine_model)
    finished = None if arguments.out is None else finished_report(arguments.out)
    if arguments.out is not None:
        require_writable(arguments.out)
    with unchanged(arguments.original, arguments) as digest, shown_progress(sys.stderr) as progress:
        # Torch takes seconds that --help need not wait for.
        from saffron_quantizer.evaluation.evaluate import EvaluateRequest, evaluate  # noqa: PLC0415
        from saffron_quantizer.evaluation.window import load_gate_set  # noqa: PLC0415

        request = EvaluateRequest(
            original=arguments.original,
            model_digest=digest(),
            candidate=arguments.candidate,
            sequences=load_gate_set(arguments.data, arguments.original, max_tokens=arguments.max_tokens),
            baseline=arguments.baseline,
            confidence=confidence,
            engine=engine,
            tasks=arguments.tasks,
            device=device_of(arguments),
        )
        return evaluate(request, finished, progress)
