"""Jobs of others and of earlier runs: what is adopted, what is abandoned, what is in the way."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from deciding import builders
from deciding.world import Ends, Hangs, Outcome, Runs, World
from deciding.worlds import GPTQ, acts, without_rollout

from saffron_api.results import Stage
from saffron_operator import names
from saffron_operator.decision import DeleteJob
from saffron_operator.names import job_name
from saffron_operator.observed import JobObserved, JobPhase, Leaving, Waiting


def foreign(name: str, **changes: Any) -> JobObserved:
    job = JobObserved(
        name=name,
        uid="f",
        owner_uid=None,
        key="",
        run="",
        attempt=1,
        stage=None,
        candidate=None,
        phase=JobPhase.QUEUED,
        created=builders.START,
    )
    return replace(job, **changes)


def first_job_name() -> str:
    world = World()
    world.step()
    return next(iter(world.jobs))


def test_a_job_of_the_same_name_that_is_not_ours_stalls_and_is_left_alone():
    name = first_job_name()
    world = World(jobs={name: foreign(name)}).run()
    assert world.ready == ("False", "NameTaken")
    assert name in world.message
    assert world.acts == []


def test_a_job_of_ours_under_another_key_is_no_answer():
    name = first_job_name()
    taken = foreign(name, owner_uid=builders.UID, stage=Stage.INSPECT, key="another", phase=JobPhase.SUCCEEDED)
    assert World(jobs={name: taken}).run().ready == ("False", "NameTaken")


def test_a_candidates_name_that_is_taken_stalls_instead_of_choosing_among_the_rest():
    done = without_rollout().run()
    name = next(job.name for job in done.jobs.values() if job.stage is Stage.QUANTIZE and job.candidate == "rtn-int4")
    world = without_rollout(jobs={name: foreign(name)}).run()
    assert world.ready == ("False", "NameTaken")
    assert world.candidates["gptq-int4"] == "Done Pass"


def test_a_job_that_is_being_deleted_is_waited_for():
    name = first_job_name()
    world = World(jobs={name: foreign(name, deleting=True)}).run()
    assert world.ready == ("False", "Inspecting")
    assert "is removed" in world.message
    del world.jobs[name]
    assert world.run().ready == ("True", "Promoted")


def test_a_changed_key_abandons_what_runs_and_keeps_what_is_still_right():
    world = World(script=lambda stage, name, _: Runs() if (stage, name) == (Stage.QUANTIZE, "gptq-int4") else None)
    world.run()
    inspect = next(job for job in world.jobs.values() if job.stage is Stage.INSPECT)
    running = next(job for job in world.jobs.values() if job.phase is JobPhase.RUNNING)
    old_run = world.run_id
    world.change(data={"source": {"dataset": {"uri": "pvc://data/prompts.jsonl"}}, "seed": 7})
    decision = world.step()
    assert DeleteJob(running.name, running.uid) in decision.actions
    assert world.run_id != old_run
    world.script = lambda *_: None
    assert world.run().ready == ("True", "Promoted")
    assert inspect.name in world.jobs
    assert {job.run for job in world.jobs.values() if job.stage is not Stage.INSPECT} == {world.run_id}


def test_another_model_stops_what_runs_at_once():
    world = World(script=lambda stage, *_: Runs() if stage is Stage.QUANTIZE else None).run()
    running = [job for job in world.jobs.values() if job.phase is JobPhase.RUNNING]
    world.change(model={"uri": "pvc://models/other"}, rollout=None)
    decision = world.step()
    assert [act for act in decision.actions if isinstance(act, DeleteJob)] == [
        DeleteJob(job.name, job.uid) for job in running
    ]


def test_what_is_promoted_stays_while_a_new_run_works():
    world = World().run()
    world.script = lambda stage, *_: Runs() if stage is Stage.SAMPLE else None
    world.change(data={"source": {"dataset": {"uri": "pvc://data/prompts.jsonl"}}, "seed": 7})
    world.run()
    assert world.ready == ("False", "Sampling")
    assert world.overlay == GPTQ
    assert world.condition("Promoted") == "False"
    assert world.condition("TargetDrift") == "False"


def test_a_model_that_changed_in_place_begins_another_run():
    outcomes: dict[tuple[Stage, str | None], Outcome] = {}
    world = without_rollout(script=lambda stage, candidate, _: outcomes.get((stage, candidate))).run()
    old = world.run_id
    outcomes[Stage.INSPECT, None] = Ends(builders.inspected(model_digest=builders.hexadecimal("other")))
    world.jobs = {name: job for name, job in world.jobs.items() if job.stage is not Stage.INSPECT}
    world.run()
    assert world.run_id == f"{old}.2"
    assert world.ready == ("True", "CheckpointReady")


def test_jobs_that_somebody_removed_are_made_again():
    world = World().run()
    before = set(world.jobs)
    world.jobs = {}
    assert world.run().ready == ("True", "Promoted")
    assert set(world.jobs) == before
    assert acts(world) == ["ApplyCanary", "ApplyCanary", "ApplyOverlay", "DeleteCanary"]


def test_a_candidate_that_comes_late_does_not_stop_the_canary_of_the_one_that_was_chosen():
    late: dict[tuple[Stage, str | None], Outcome] = {(Stage.QUANTIZE, "rtn-int4"): Hangs()}
    world = World(script=lambda stage, candidate, _: late.get((stage, candidate)))
    world.run(until=lambda world: world.ready[1] == "CanaryPaused")
    assert world.candidates["rtn-int4"] == "Failed Error ImageUnavailable"
    late[Stage.QUANTIZE, "rtn-int4"] = Runs()
    world.move()
    world.step()
    assert world.candidates["rtn-int4"].startswith("Running")
    assert world.ready == ("False", "CanaryPaused")
    assert world.run().ready == ("True", "Promoted")


REMOVED = [
    ("the Quantize", lambda job: (job.stage, job.candidate) == (Stage.QUANTIZE, "gptq-int4")),
    ("the Evaluate", lambda job: (job.stage, job.candidate) == (Stage.EVALUATE, "gptq-int4")),
    ("the Sample", lambda job: job.stage is Stage.SAMPLE),
    ("the Inspect", lambda job: job.stage is Stage.INSPECT),
    ("all Jobs", lambda _: True),
]


@pytest.mark.parametrize("removed", [row[1] for row in REMOVED], ids=[row[0] for row in REMOVED])
def test_a_canary_serves_on_while_jobs_that_somebody_removed_are_done_again(removed: Callable[[JobObserved], bool]):
    world = World().run(until=lambda world: world.ready[1] == "CanaryPaused")
    before, canary = world.status.rollout, world.canary
    world.jobs = {name: job for name, job in world.jobs.items() if not removed(job)}
    world.now += timedelta(minutes=9)
    world.step()
    assert world.ready in {("False", "Quantizing"), ("False", "Sampling"), ("False", "Inspecting")}
    world.run(until=lambda world: world.ready[1] == "CanaryPaused")
    assert (world.status.rollout, world.canary) == (before, canary)
    assert world.run().ready == ("True", "Promoted")
    assert acts(world) == ["ApplyCanary", "ApplyCanary", "ApplyOverlay", "DeleteCanary"]


def test_a_canary_whose_checkpoint_is_measured_again_and_fails_is_removed():
    world = World().run(until=lambda world: world.ready[1] == "CanaryPaused")
    world.divergences = {"rtn-int4": 0.5, "gptq-int4": 0.5, "int8": 0.5}
    world.jobs = {}
    world.run()
    assert world.ready == ("False", "NoCandidatePassed")
    assert (world.canary, world.status.rollout, world.overlay) == (None, None, None)


def test_a_canary_whose_jobs_are_done_again_can_be_ended():
    world = World().run(until=lambda world: world.ready[1] == "CanaryPaused")
    world.jobs = {}
    world.script = lambda *_: Runs()
    world.run()
    assert world.ready == ("False", "Inspecting")
    assert world.canary is not None
    world.annotations[names.ABORT_ANNOTATION] = world.run_id
    world.run()
    assert (world.ready, world.canary) == (("False", "Aborted"), None)


def test_a_canary_does_not_wait_for_jobs_of_limits_that_make_another_checkpoint():
    candidates = [{"name": "gptq-int4", "method": "GPTQ", "scheme": "W4A16", "escalate": {"maxBytesRatio": 0.9}}]
    world = World(spec=builders.spec(candidates=candidates)).run(until=lambda world: world.ready[1] == "CanaryPaused")
    world.change(candidates=candidates, gates={"klDivergence": {"max": 0.09}})
    world.step()
    assert world.ready == ("False", "Quantizing")
    assert world.canary is not None
    assert world.canary.deleting


@pytest.mark.parametrize("attempt", [1, 2])
def test_no_job_begins_while_a_pod_of_one_that_did_its_work_has_not_ended(attempt: int):
    world = without_rollout().run(until=lambda world: any(job.candidate == "gptq-int4" for job in world.jobs.values()))
    (job,) = (job for job in world.jobs.values() if job.candidate == "gptq-int4")
    del world.jobs[job.name]
    name = job_name("qwen", Stage.QUANTIZE, "gptq-int4", job.key, attempt)
    world.leaving = (Leaving(f"{name}-x7k2p", name, Stage.QUANTIZE),)
    world.run()
    assert world.ready == ("False", "Quantizing")
    said = f"the pod {name}-x7k2p of an earlier Job for quantize of gptq-int4 has not ended yet"
    assert world.message.endswith(said)
    assert {each.name: each.message for each in world.status.candidates}["gptq-int4"] == said
    world.leaving = ()
    assert world.run().ready == ("True", "CheckpointReady")


def test_nor_while_a_pod_of_the_same_recipe_under_another_name_has_not_ended():
    """As where a candidate is renamed while it is made: its work lies in the same folder."""
    world = without_rollout().run(until=lambda world: any(job.candidate == "gptq-int4" for job in world.jobs.values()))
    (job,) = (job for job in world.jobs.values() if job.candidate == "gptq-int4")
    world.change(candidates=[{"name": "renamed", "method": "GPTQ", "scheme": "W4A16"}], rollout=None)
    world.leaving = (Leaving(f"{job.name}-x7k2p", job.name, Stage.QUANTIZE),)
    world.script = lambda stage, *_: Ends(builders.inspected(["renamed"])) if stage is Stage.INSPECT else None
    world.run()
    assert world.message.endswith(
        f"the pod {job.name}-x7k2p of an earlier Job for quantize of renamed has not ended yet"
    )
    world.leaving = ()
    assert world.run().ready == ("True", "CheckpointReady")


FULL = Waiting("FailedCreate", "exceeded quota: full", builders.START)


def test_a_job_without_a_pod_is_looked_at_again_since_nothing_calls_for_that():
    world = World()
    world.step()
    assert world.step().requeue_after == 10
    world.now += timedelta(seconds=10)
    assert (world.step().requeue_after, world.message) == (None, "inspect is queued")


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        (JobPhase.QUEUED, "inspect is queued (FailedCreate: exceeded quota: full)"),
        (JobPhase.PENDING, "inspect waits (FailedCreate: exceeded quota: full)"),
        (JobPhase.RUNNING, "inspect runs (FailedCreate: exceeded quota: full)"),
    ],
)
def test_a_job_whose_pods_are_not_made_says_why(phase: JobPhase, message: str):
    world = World()
    world.step()
    ((name, job),) = world.jobs.items()
    world.jobs[name] = replace(job, phase=phase, waiting=FULL)
    assert (world.step().requeue_after, world.ready, world.message) == (None, ("False", "Inspecting"), message)
