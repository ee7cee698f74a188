"""Raising the most sensitive units until the limits hold on the selection set.

The candidate is made as it is asked for and measured; if it misses a limit, it is made again with the first few of the
ordered raises, and so on as `raising` says. Each round is a whole checkpoint in a folder of its own, made from the
original by the same code as any other, so every method and every smoothing may be escalated. What was found of each
round is noted before the next begins, so that a killed run goes on in the round it was in; the round that is kept is
moved to where a checkpoint without rounds would be.

It costs at most `MOST_ROUNDS` quantizations and as many looks at the selection set, room for two checkpoints, and one
measurement of what each unit does alone. The gate set is never seen.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from saffron_api.candidate import RAISES, Method
from saffron_api.failures import FailureReason
from saffron_api.gates import MIN_UNITS, judge
from saffron_api.quantized_model import Gates, Verdict
from saffron_api.results import Figure
from saffron_quantizer.algorithms.quantized import Quantized
from saffron_quantizer.algorithms.rtn import rtn
from saffron_quantizer.atomic import PRIVATE_FILE, sync_folder, write_file
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.data.sequences import TokenSequence
from saffron_quantizer.evaluation.baseline import original_hidden
from saffron_quantizer.evaluation.divergence import Scored, compare_tokens
from saffron_quantizer.evaluation.figures import measured_figures, sum_by_unit
from saffron_quantizer.evaluation.hidden import ScoredHidden, scored_hidden
from saffron_quantizer.models.compute import CPU
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.plan import Plan, folder_bytes, most_bytes, stored_bytes, with_precisions
from saffron_quantizer.precision import Precision
from saffron_quantizer.preflight import Needs
from saffron_quantizer.progress import Progress, ProgressSink
from saffron_quantizer.raising import (
    Level,
    Measured,
    Raise,
    chosen_count,
    first_guess,
    next_count,
    order_of_raises,
    share_that_may_stay,
)
from saffron_quantizer.sensitivity import Quantize, Variant, damages, probes
from saffron_quantizer.units import Unit

ROUNDS_HELD = 2
"""Checkpoints that lie on the disk at once: the best so far, and the one that is being made."""

_NOTE = ".escalation.json"
_ROUND = ".round-{}"

Make = Callable[[Path, Plan, ProgressSink], None]
"""Makes a whole checkpoint of a plan in a folder, or goes on with the one that is there."""


@dataclass(frozen=True)
class Selection:
    """What decides how much is raised.

    Attributes:
        sequences: the selection set, as made by `limit_scored`.
        gates: the limits that are to hold on it.
    """

    sequences: Sequence[TokenSequence]
    gates: Gates


@dataclass(frozen=True)
class Escalated:
    """The candidate that is kept.

    Attributes:
        plan: what it is made by.
        raised: for each raised unit its name, precisions before and after, the damage that is spared and the bytes
            that it costs, as JSON.
        rounds: for each candidate that was made its raises, bytes, figures and whether the limits held, as JSON.
    """

    plan: Plan
    raised: list[dict[str, Any]]
    rounds: list[dict[str, Any]]


def with_rounds(need: Needs, folder: Path, reader: CheckpointReader, plan: Plan, selection: Selection | None) -> Needs:
    """What a run needs with its rounds on the disk, if it makes any, less what is there of them already."""
    if selection is None:
        return need
    there = sum(folder_bytes(place) for place in folder.glob(_ROUND.format("*")))
    return replace(need, checkpoint=bytes_of_rounds(need, reader, plan, selection.gates) - there)


def bytes_of_rounds(need: Needs, reader: CheckpointReader, plan: Plan, gates: Gates | None) -> int:
    """What an escalated candidate's rounds have on the disk at once, at most."""
    return ROUNDS_HELD * (need.checkpoint - plan.bytes + most_bytes(reader, plan.spec, gates))


def escalate(
    folder: Path,
    reader: CheckpointReader,
    plan: Plan,
    selection: Selection,
    make: Make,
    *,
    progress: ProgressSink,
    device: torch.device = CPU,
) -> Escalated:
    """Make the candidate with as few raises as will do, or go on where a killed run was.

    Args:
        folder: where the checkpoint is to be; it exists and is ours.
        reader: of the original.
        plan: with nothing raised.
        selection: what is to hold, and on what.
        make: makes each round.
        progress: told of all steps, with the round's number.
        device: what measures.

    Raises:
        StageError: as `make` does, or if a figure is not finite.
    """
    noted = _read(folder)
    open_stream = partial(ModelStream.open, device=device)
    measure = _Measure(reader.folder, selection, open_stream)
    while True:
        measured = [Measured(each["raises"], each["holds"]) for each in noted["rounds"]]
        raises = _raises(reader, plan, selection.gates, noted["damages"]) if noted["damages"] else ()
        count = next_count(measured, len(raises), _guess(noted, raises, selection.gates))
        _keep_only(folder, {_ROUND.format(each) for each in _needed(measured, count)})
        if count is None:
            break
        place = folder / _ROUND.format(count)
        place.mkdir(exist_ok=True)
        tell = _numbered(progress, len(measured) + 1)
        raised = _raised_plan(reader, plan, raises[:count])
        make(place, raised, tell)
        figures = measure.figures(place, tell)
        noted["rounds"].append(_round(count, raised, figures, selection.gates))
        if count == 0 and not noted["rounds"][0]["holds"]:
            noted["damages"] = _damages(open_stream(reader.folder), _codes(reader, place, plan), plan, selection, tell)
        write_file(folder / _NOTE, json.dumps(noted).encode(), mode=PRIVATE_FILE)
    chosen = chosen_count(measured)
    _move_up(folder / _ROUND.format(chosen), folder)
    return Escalated(_raised_plan(reader, plan, raises[:chosen]), _told(raises[:chosen]), noted["rounds"])


def _read(folder: Path) -> dict[str, Any]:
    """What earlier runs found."""
    if not (folder / _NOTE).is_file():
        return {"rounds": [], "damages": []}
    noted: dict[str, Any] = json.loads((folder / _NOTE).read_bytes())
    return noted


def _round(count: int, plan: Plan, figures: Sequence[Figure], gates: Gates) -> dict[str, Any]:
    limits = gates.model_copy(update={"checkpoint_bytes_ratio": None})
    # With few conversations the bounds are rough. Here they steer a search; what they promise is for the gate set.
    verdict = judge(figures, limits, MIN_UNITS).verdict
    shown = [figure.model_dump(mode="json", by_alias=True) for figure in figures]
    return {"raises": count, "bytes": plan.bytes, "holds": verdict is Verdict.PASS, "figures": shown}


def _guess(noted: Mapping[str, Any], raises: Sequence[Raise], gates: Gates) -> int:
    if not noted["damages"]:
        return 0
    figures = [Figure.model_validate(each) for each in noted["rounds"][0]["figures"]]
    # The first damage of each unit is that of the candidate with nothing raised.
    return first_guess(raises, sum(each[0] for each in noted["damages"]), share_that_may_stay(figures, gates))


def _levels(plan: Plan, unit: Unit) -> list[Precision]:
    """The precisions that a unit may have, from low to high, without that of the original."""
    own = plan.precisions[unit.weights[0]]
    return [own, *(Precision(scheme) for scheme in RAISES[own.scheme])]


def _quantized_units(plan: Plan) -> list[Unit]:
    return [unit for unit in plan.units if unit.weights[0] in plan.precisions]


def _raises(reader: CheckpointReader, plan: Plan, gates: Gates, found: Sequence[Sequence[float]]) -> tuple[Raise, ...]:
    """The raises in their order, from the damages of each quantized unit at each of its levels."""
    levels = {
        unit.name: [
            *(
                Level(
                    precision,
                    damage,
                    sum(stored_bytes(reader, weight, plan.layout, precision) for weight in unit.weights),
                )
                for precision, damage in zip(_levels(plan, unit), each, strict=True)
            ),
            Level(None, 0.0, sum(reader.entry(weight).bytes for weight in unit.weights)),
        ]
        for unit, each in zip(_quantized_units(plan), found, strict=True)
    }
    return order_of_raises(levels, most_bytes(reader, plan.spec, gates) - plan.bytes)


def _damages(
    original: ModelStream, quantize: Quantize, plan: Plan, selection: Selection, progress: ProgressSink
) -> list[list[float]]:
    """For each quantized unit its damage at each of its levels."""
    variants = [Variant(unit, precision) for unit in _quantized_units(plan) for precision in _levels(plan, unit)]
    found = iter(damages(original, variants, quantize, probes(selection.sequences), progress=progress))
    return [[next(found) for _ in _levels(plan, unit)] for unit in _quantized_units(plan)]


def _codes(reader: CheckpointReader, made: Path, plan: Plan) -> Quantize:
    """How units are quantized to see what they do alone.

    The candidate's own codes tell best. Those of a higher level don't exist yet, and those of smoothed weights fit
    inputs that the original does not have; there rounding to nearest stands for the method.
    """
    own = CheckpointReader(made)
    fit = plan.spec.method in {Method.RTN, Method.GPTQ} and plan.spec.smoothing is None

    def quantize(weight: str, precision: Precision) -> Quantized:
        if fit and precision == plan.precisions[weight]:
            return plan.layout.restored(weight, precision, own.read)
        W = reader.read(weight)
        return rtn(W, plan.grid_of(precision, W.dtype))

    return quantize


def _raised_plan(reader: CheckpointReader, plan: Plan, raises: Sequence[Raise]) -> Plan:
    """The plan after some raises."""
    weights = {unit.name: unit.weights for unit in plan.units}
    precisions: dict[str, Precision | None] = dict(plan.precisions)
    for each in raises:
        precisions |= dict.fromkeys(weights[each.unit], each.after)
    return with_precisions(plan, reader, {name: each for name, each in precisions.items() if each is not None})


def _told(raises: Sequence[Raise]) -> list[dict[str, Any]]:
    """One row a unit, in the order in which units were first raised."""
    rows: dict[str, dict[str, Any]] = {}
    for each in raises:
        row = rows.setdefault(
            each.unit, {"unit": each.unit, "from": _word(each.before), "to": "", "damage": 0.0, "bytes": 0}
        )
        row |= {"to": _word(each.after), "damage": row["damage"] + each.damage, "bytes": row["bytes"] + each.bytes}
    return list(rows.values())


def _word(precision: Precision | None) -> str:
    return "original" if precision is None else precision.scheme.value


class _Measure:
    """Measures checkpoints on the selection set; the original's states are computed once, when they are needed."""

    def __init__(self, folder: Path, selection: Selection, open_stream: Callable[[Path], ModelStream]) -> None:
        self._folder = folder
        self._open = open_stream
        self._selection = selection
        self._original: ScoredHidden | None = None

    def figures(self, candidate: Path, progress: ProgressSink) -> list[Figure]:
        """The sampled figures with their bounds.

        Raises:
            StageError: `MODEL_NOT_FINITE` or `FIGURES_NOT_FINITE`.
        """
        sequences = self._selection.sequences
        # Opened anew each time, so that no output head lies in memory while blocks are quantized.
        original, other = self._open(self._folder), self._open(candidate)
        if self._original is None:
            self._original = original_hidden(original, sequences, progress)
        states = self._original.states
        hidden = scored_hidden(
            other,
            sequences,
            activity="selection set, block by block",
            not_finite=FailureReason.FIGURES_NOT_FINITE,
            progress=progress,
        )
        tokens = compare_tokens(
            Scored(original, states), Scored(other, hidden.states.to(states.dtype)), hidden.targets, progress=progress
        )
        return measured_figures(sum_by_unit(tokens, sequences), level=self._selection.gates.confidence)


def _needed(measured: Sequence[Measured], count: int | None) -> set[int]:
    """The rounds whose checkpoints are still of use."""
    needed = set() if count is None else {count}
    if measured and (count is None or any(each.holds for each in measured)):
        needed.add(chosen_count(measured))
    return needed


def _keep_only(folder: Path, names: set[str]) -> None:
    for place in folder.glob(_ROUND.format("*")):
        if place.name not in names:
            shutil.rmtree(place)


def _move_up(place: Path, folder: Path) -> None:
    """Move a round's files to where the checkpoint is to be; those that an earlier run moved are there already."""
    if not place.is_dir():
        return
    for path in sorted(place.iterdir()):
        path.rename(folder / path.name)
    sync_folder(folder)
    place.rmdir()


def _numbered(progress: ProgressSink, number: int) -> ProgressSink:
    return lambda step: progress(Progress(f"round {number}: {step.activity}", step.done, step.total))
