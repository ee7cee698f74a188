"""`saffron run`: a QuantizedModel on one machine, from the model to the selected checkpoint."""

import argparse
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import Field, ValidationError

from saffron_api.failures import ExitCode, Failure, FailureReason, StageError, subject_of
from saffron_api.model import ApiModel, problems
from saffron_api.quantized_model import KIND, CandidateStatus, QuantizedModel, SelectedStatus
from saffron_api.results import Stage
from saffron_quantizer.atomic import private_folder, require_writable, write_file
from saffron_quantizer.cli.options import add_device, file_to_write
from saffron_quantizer.cli.outcome import told_failures
from saffron_quantizer.cli.progress import duration, shown_progress
from saffron_quantizer.cli.streams import mention, say
from saffron_quantizer.cli.subcommand import add_command
from saffron_quantizer.cli.table import comparison
from saffron_quantizer.local.order import Order
from saffron_quantizer.local.pipeline import Outcome, ending, run
from saffron_quantizer.local.places import claims_of, places_of
from saffron_quantizer.local.process import do_in_process
from saffron_quantizer.page.document import page
from saffron_quantizer.progress import ProgressSink

if TYPE_CHECKING:
    from saffron_quantizer.cli.subcommand import Commands

_ABOUT = """Do what a QuantizedModel asks for on this machine, with no cluster: inspect the model, draw samples, measure
the original, make every candidate and measure it, and select one by the operator's own rules. One bad candidate never
stops the others. Each piece of work has a process of its own; the same command goes on with what is finished. Exit
codes: 0 a checkpoint is selected, 20 none passed, 21 none passed and the data do not suffice to say of at least one."""


class RunResult(ApiModel):
    """What `saffron run --json` prints."""

    schema_name: Literal["saffron.dev/run/v1"] = Field(default="saffron.dev/run/v1", alias="schema")
    candidates: list[CandidateStatus]
    selected: SelectedStatus | None
    folder: str | None = Field(description="Where the selected checkpoint lies.")


def add_to(commands: "Commands") -> None:
    """Add the subcommand."""
    parser = add_command(
        commands,
        "run",
        summary="do everything that a QuantizedModel asks for on this machine",
        about=_ABOUT,
        run=told_failures(_run),
    )
    parser.add_argument(
        "-f", "--file", type=Path, required=True, metavar="FILE", help="a QuantizedModel in YAML, as for the cluster"
    )
    parser.add_argument(
        "--claim",
        type=_claim,
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="the folder that stands for a claim, which must be there; one for each claim that the request names "
        "(default: none)",
    )
    add_device(parser, otherwise="cpu")
    parser.add_argument(
        "--html", type=file_to_write, metavar="FILE", help="file for a page of the results (default: none)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON (default: as text)")


def _claim(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR, as models=/srv/models")
    return name, Path(folder)


def _run(arguments: argparse.Namespace) -> int:
    request = _request(arguments.file)
    spec, claims = request.spec, dict(arguments.claim)
    missing = [name for name in claims_of(spec) if name not in claims]
    if missing:
        arguments.refuse(f"no --claim says which folder stands for {', '.join(missing)}")
    absent = [f"{folder} for {name}" for name, folder in claims.items() if not folder.is_dir()]
    if absent:
        arguments.refuse(f"there is no folder {', '.join(absent)}")
    for name in sorted(claims.keys() - set(claims_of(spec))):
        mention(f"note: the request names no claim {name}")
    places = places_of(spec, request.metadata.name, claims)
    private_folder(places.workspace)
    if arguments.html is not None:
        require_writable(arguments.html)
    for ignored in _not_looked_at(request):
        mention(f"note: {ignored} is for a cluster and not looked at")
    tell = partial(_tell, begun=time.monotonic())
    first = Order(Stage.INSPECT, spec, places, device=arguments.device or "cpu")
    outcome = run(first, lambda order: do_in_process(order, _progress), tell)
    if arguments.html is not None and outcome.reports:
        text = page(outcome.reports, title=request.metadata.name, selection=spec.selection)
        write_file(arguments.html, text.encode())
    say(_json(outcome) if arguments.json else _text(outcome))
    return _exit_code(outcome)


def _request(path: Path) -> QuantizedModel:
    """The QuantizedModel in a file, which may have objects of other kinds.

    Raises:
        StageError: `SPEC_INVALID` with all that is wrong with it.
    """
    try:
        documents = list(yaml.safe_load_all(path.read_bytes()))
    except yaml.YAMLError as error:
        raise _invalid(path, "it is not YAML") from error
    found = [each for each in documents if isinstance(each, Mapping) and each.get("kind") == KIND]
    if len(found) != 1:
        raise _invalid(path, f"it holds {len(found)} objects of the kind {KIND}, and one is asked for")
    try:
        return QuantizedModel.model_validate(_without_server_fields(found[0]))
    except ValidationError as error:
        raise _invalid(path, "; ".join(problems(error))) from error


def _without_server_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """The object without its status, which is the operator's and may be of another version."""
    return {name: value for name, value in document.items() if name != "status"}


def _invalid(path: Path, why: str) -> StageError:
    return StageError(Failure(reason=FailureReason.SPEC_INVALID, subject=subject_of(path)), detail=why)


def _not_looked_at(request: QuantizedModel) -> list[str]:
    """What is asked for that only a cluster can do."""
    spec = request.spec
    named = {"spec.rollout": spec.rollout, "spec.suspend": spec.suspend or None}
    jobs = ["spec.job"] if "job" in spec.model_fields_set else []
    own = [f"spec.candidates[{number}].job" for number, each in enumerate(spec.candidates) if each.job is not None]
    return [*(name for name, value in named.items() if value is not None), *jobs, *own]


def _progress() -> AbstractContextManager[ProgressSink]:
    return shown_progress(sys.stderr)


def _tell(words: str, *, begun: float) -> None:
    mention(f"[{duration(time.monotonic() - begun):>6}] {words}")


def _json(outcome: Outcome) -> str:
    result = RunResult(
        candidates=list(outcome.candidates),
        selected=outcome.selected,
        folder=None if outcome.folder is None else str(outcome.folder),
    )
    return result.model_dump_json(by_alias=True, exclude_none=True)


def _text(outcome: Outcome) -> str:
    table = [comparison(outcome.reports)] if outcome.reports else []
    measured = {report.name for report in outcome.reports}
    others = [ending(status) for status in outcome.candidates if status.name not in measured]
    return "\n".join([*table, *others, _decision(outcome)])


def _decision(outcome: Outcome) -> str:
    if outcome.selected is not None:
        return f"selected: {outcome.selected.name}, in {outcome.folder}"
    if not outcome.inconclusive:
        return "selected: none, for none passed; loosen spec.gates, which makes nothing again, or add candidates"
    needed = [report.units_needed for report in outcome.reports if report.units_needed is not None]
    data = (
        f"about {min(needed)} conversations in the gate set would settle one; raise spec.evaluation.samples"
        if needed
        else "more data or a looser limit in spec.gates is needed"
    )
    return f"selected: none, for none is shown to pass, and not all to fail: {data}"


def _exit_code(outcome: Outcome) -> ExitCode:
    if outcome.selected is not None:
        return ExitCode.DONE
    return ExitCode.VERDICT_INCONCLUSIVE if outcome.inconclusive else ExitCode.VERDICT_FAIL
