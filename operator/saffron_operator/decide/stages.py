"""From the model to a selected checkpoint: which Jobs are wanted now, and how far the run is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from saffron_api import keys
from saffron_api.quantized_model import CandidateState, CandidateStatus, RunStatus, SamplesStatus, SelectedStatus
from saffron_api.results import InspectResult, SampleResult, Stage, encode
from saffron_api.selection import select
from saffron_operator import reasons
from saffron_operator.decide.candidates import Prospect, evaluate_task, excluded, look, quantize_task
from saffron_operator.decide.inputs import Inputs, Kind, Standing, clip
from saffron_operator.decide.none_passed import none_passed
from saffron_operator.decide.tasks import (
    Absent,
    Active,
    Broken,
    Clearing,
    Finished,
    State,
    Task,
    mine,
    name_of,
    state,
)
from saffron_operator.decision import Action, CreateJob, DeleteJob, KeepResult
from saffron_operator.manifests import arguments
from saffron_operator.manifests.job import JobRequest, build
from saffron_operator.observed import JobObserved, JobPhase

_OVER = frozenset({JobPhase.SUCCEEDED, JobPhase.FAILED})


@dataclass(frozen=True)
class Progress:
    """How far the Jobs of a run are.

    Attributes:
        standing: How things stand; None where a checkpoint is selected.
        run: With what is known of it by now.
        actions: On Jobs.
        revisit: When a time limit asks for another pass.
        quantized: Every candidate that gets a checkpoint has one, and there is at least one.
    """

    standing: Standing | None
    run: RunStatus
    actions: tuple[Action, ...] = ()
    samples: SamplesStatus | None = None
    candidates: tuple[CandidateStatus, ...] = ()
    selected: SelectedStatus | None = None
    revisit: datetime | None = None
    quantized: bool = False


def progress(inputs: Inputs) -> Progress:
    """Return how far the Jobs of the run are, and what is to be done with them."""
    uid, spec = inputs.observed.meta.uid, inputs.spec
    key = keys.inspect_key(model_uri=spec.model.uri, candidates=spec.candidates, run_id=spec.run_id)
    inspect = Task(Stage.INSPECT, key, tuple(arguments.inspect(uid, spec)))
    found = state(inputs, inspect)
    if isinstance(found, Finished) and isinstance(found.result, InspectResult):
        return _inspected(inputs, inspect, found.result)
    waiting = tuple(CandidateStatus(name=each.name, state=CandidateState.PENDING) for each in spec.candidates)
    # What runs for an earlier plan may be work of this one, too; it is stopped all the same and goes on from its last
    # finished block, if it is. What is over stays until it is known.
    stopped = tuple(
        DeleteJob(job.name, job.uid)
        for job in mine(inputs)
        if (job.stage, job.key) != (inspect.stage, inspect.key) and job.phase not in _OVER and not job.deleting
    )
    return Progress(
        standing=_shared_standing(inputs, inspect, found, reasons.INSPECTING),
        run=inputs.run,
        actions=(*stopped, *_acts(inputs, [(inspect, found)])),
        candidates=waiting,
        revisit=_revisit([(inspect, found)]),
    )


def _inspected(inputs: Inputs, inspect: Task, result: InspectResult) -> Progress:
    """Return how far a run is whose model is known."""
    spec = inputs.spec
    sample_key = keys.sample_key(
        model_digest=result.model_digest,
        data=spec.data,
        calibration=spec.calibration,
        evaluation=spec.evaluation,
        run_id=spec.run_id,
    )
    known = {"model_digest": result.model_digest, "sample_key": sample_key}
    run = inputs.run.model_copy(update=known)
    inputs = replace(inputs, run=run)
    shared = _shared_tasks(inputs, result.model_digest, sample_key)
    wanted = {(task.stage, task.key) for task in (inspect, *shared)}
    for candidate in spec.candidates:
        quantize = quantize_task(inputs, candidate, result.model_digest, sample_key)
        evaluate = evaluate_task(inputs, quantize, result.model_digest, sample_key, "")
        wanted |= {(task.stage, task.key) for task in (quantize, evaluate)}
    tidied = _tidied(inputs, wanted)
    left_out = {each.name: excluded(inputs, each, result) for each in spec.candidates}
    if all(status is not None for status in left_out.values()):
        prospects = [Prospect(status, settled=True) for status in left_out.values() if status is not None]
        found = Progress(none_passed(inputs, prospects), run, candidates=tuple(each.status for each in prospects))
    else:
        found = _sampled(inputs, shared, result, left_out)
    return replace(found, actions=(*tidied, *found.actions))


def _shared_tasks(inputs: Inputs, model_digest: str, key: str) -> tuple[Task, Task]:
    """Return the work that all candidates share: samples, and the original on the gate set."""
    uid, spec = inputs.observed.meta.uid, inputs.spec
    sample = arguments.sample(uid, spec, model_digest=model_digest, key=key)
    baseline = arguments.baseline(uid, spec, model_digest=model_digest, key=key)
    return Task(Stage.SAMPLE, key, tuple(sample)), Task(Stage.BASELINE, key, tuple(baseline))


def _sampled(
    inputs: Inputs,
    shared: tuple[Task, Task],
    inspected: InspectResult,
    left_out: dict[str, CandidateStatus | None],
) -> Progress:
    """Return how far a run is in which at least one candidate gets Jobs."""
    sample, baseline = shared
    found = state(inputs, sample)
    if not isinstance(found, Finished) or not isinstance(found.result, SampleResult):
        waiting = tuple(
            left_out[each.name] or CandidateStatus(name=each.name, state=CandidateState.PENDING)
            for each in inputs.spec.candidates
        )
        return Progress(
            standing=_shared_standing(inputs, sample, found, reasons.SAMPLING),
            run=inputs.run,
            actions=tuple(_acts(inputs, [(sample, found)])),
            candidates=waiting,
            revisit=_revisit([(sample, found)]),
        )
    samples = SamplesStatus(
        calibration=found.result.calibration, selection=found.result.selection, gate=found.result.gate
    )
    prospects = []
    for each in inputs.spec.candidates:
        status = left_out[each.name]
        prospects.append(
            Prospect(status, settled=True) if status is not None else look(inputs, each, inspected, sample.key)
        )
    reference = state(inputs, baseline)
    return replace(_quantizing(inputs, baseline, reference, prospects), samples=samples)


def _quantizing(inputs: Inputs, baseline: Task, reference: State, prospects: Sequence[Prospect]) -> Progress:
    """Return how far a run is whose samples are drawn."""
    tasks = [(baseline, reference), *(pair for each in prospects for pair in each.tasks)]
    candidates = tuple(each.status for each in prospects)
    quantized = all(each.settled or each.status.checkpoint_digest is not None for each in prospects) and any(
        each.status.checkpoint_digest is not None for each in prospects
    )
    found = Progress(
        standing=None,
        run=inputs.run,
        candidates=candidates,
        quantized=quantized,
        revisit=_revisit(tasks),
    )
    if isinstance(reference, Broken):
        # No candidate can be judged without the original's figures, so nothing more is started.
        return replace(found, standing=inputs.stalled(reference.reason, reference.message))
    if not isinstance(reference, Finished):
        # Evaluate reads what Baseline writes.
        tasks = [pair for pair in tasks if not (pair[0].stage is Stage.EVALUATE and isinstance(pair[1], Absent))]
    found = replace(found, actions=tuple(_acts(inputs, tasks)))
    if not isinstance(reference, Finished) or not all(each.settled for each in prospects):
        chosen = select(inputs.spec, _chosen(inputs, candidates))
        if chosen is not None:
            return replace(found, selected=chosen)
        return replace(found, standing=_quantizing_standing(tasks, prospects))
    if any(each.status.reason == reasons.NAME_TAKEN for each in prospects):
        return replace(found, standing=none_passed(inputs, prospects))
    selected = select(inputs.spec, candidates)
    if selected is None:
        return replace(found, standing=none_passed(inputs, prospects))
    return replace(found, selected=selected)


def _chosen(inputs: Inputs, candidates: Sequence[CandidateStatus]) -> list[CandidateStatus]:
    """Return the candidate that this run rolls out or has promoted, if its figures are there.

    A choice stands while another candidate is looked at once more: one whose image came late, or whose Jobs somebody
    removed, is no reason to stop a canary.
    """
    memory, run = inputs.observed.memory, inputs.run.id
    digests = {each.checkpoint_digest for each in (memory.rollout, memory.promoted) if each and each.run_id == run}
    return [each for each in candidates if each.checkpoint_digest in digests]


def _shared_standing(inputs: Inputs, task: Task, found: State, reason: str) -> Standing:
    if isinstance(found, Broken):
        return inputs.stalled(found.reason, found.message)
    return Standing(Kind.WORKING, reason, clip(_sentence([(task, found)])), reason)


def _quantizing_standing(tasks: Sequence[tuple[Task, State]], prospects: Sequence[Prospect]) -> Standing:
    judged = sum(each.settled for each in prospects)
    message = f"{judged} of {len(prospects)} candidates have a verdict; {_sentence(tasks)}"
    return Standing(Kind.WORKING, reasons.QUANTIZING, clip(message), "Quantizing")


def _sentence(tasks: Sequence[tuple[Task, State]]) -> str:
    """Return what goes on, in words."""
    going = [found.message for _, found in tasks if isinstance(found, Active)]
    clearing = [found.message for _, found in tasks if isinstance(found, Clearing)]
    starting = [f"{task.title} is next" for task, found in tasks if isinstance(found, Absent)][:1]
    return "; ".join(going + clearing or starting)


def _acts(inputs: Inputs, tasks: Sequence[tuple[Task, State]]) -> Iterator[Action]:
    """Yield what clears the way, then the Jobs to create: in order, and no more than may run at a time."""
    seen: set[tuple[Stage, str]] = set()
    slots = inputs.spec.job.parallelism
    distinct = []
    for task, found in tasks:  # two candidates of one recipe share their Jobs
        if (task.stage, task.key) not in seen:
            seen.add((task.stage, task.key))
            distinct.append((task, found))
    for _, found in distinct:
        if isinstance(found, Clearing):
            yield from (DeleteJob(job.name, job.uid) for job in found.jobs)
    slots -= sum(isinstance(found, Active | Clearing) for _, found in distinct)
    for task, found in distinct:
        if isinstance(found, Absent) and slots > 0:
            slots -= 1
            yield _create(inputs, task, found.attempt)


def _create(inputs: Inputs, task: Task, attempt: int) -> CreateJob:
    request = JobRequest(
        name=name_of(inputs, task, attempt),
        key=task.key,
        run=inputs.run.id,
        attempt=attempt,
        stage=task.stage,
        image=inputs.run.quantizer_image or inputs.observed.quantizer_image,
        arguments=list(task.arguments),
        candidate=task.candidate,
    )
    return CreateJob(request.name, build(inputs.observed.meta, inputs.spec, request))


def _tidied(inputs: Inputs, wanted: set[tuple[Stage, str]]) -> Iterator[Action]:
    """Yield what keeps results, and what removes Jobs of other keys and earlier attempts."""
    jobs = [job for job in mine(inputs) if not job.deleting]
    newest: dict[tuple[Stage | None, str], int] = {}
    for job in jobs:
        newest[job.stage, job.key] = max(job.attempt, newest.get((job.stage, job.key), 0))
    for job in jobs:
        if (job.stage, job.key) not in wanted or job.attempt < newest[job.stage, job.key]:
            yield DeleteJob(job.name, job.uid)
        elif kept := kept_result(job):
            yield kept


def kept_result(job: JobObserved) -> KeepResult | None:
    """Return what makes the result of a Job that is over outlive its pod; None where it does, or there is none."""
    if job.phase not in _OVER or job.result is None or job.kept:
        return None
    return KeepResult(job.name, job.uid, encode(job.result))


def _revisit(tasks: Sequence[tuple[Task, State]]) -> datetime | None:
    times = [found.until for _, found in tasks if isinstance(found, Active) and found.until is not None]
    return min(times, default=None)


def stop(inputs: Inputs) -> Iterator[Action]:
    """Yield what ends every Job that is under way."""
    for job in mine(inputs):
        if job.phase not in _OVER and not job.deleting:
            yield DeleteJob(job.name, job.uid)
