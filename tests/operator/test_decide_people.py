"""What a person says: retry, abort, promote and suspend; and a status that was lost."""

from datetime import timedelta
from typing import Any

import pytest
from deciding import builders
from deciding.world import Fails, Outcome, Runs, World
from deciding.worlds import GPTQ, INT8, acts, reasons_of, with_steps

from saffron_api.quantized_model import QuantizedModelStatus
from saffron_api.results import Stage
from saffron_operator import names
from saffron_operator.observed import JobPhase


def test_retry_does_again_what_failed_and_only_that():
    outcomes: dict[tuple[Stage, str | None], Outcome] = {(Stage.SAMPLE, None): Fails(out_of_memory=True)}
    world = World(script=lambda stage, candidate, _: outcomes.get((stage, candidate))).run()
    inspect, first = next(iter(world.jobs.values())), world.run_id
    outcomes.clear()
    assert world.run().ready == ("False", "OutOfMemory"), "nothing is tried again by itself"
    world.annotations[names.RETRY_ANNOTATION] = first
    world.run()
    assert world.ready == ("True", "Promoted")
    assert world.run_id == f"{first}.2"
    assert world.jobs[inspect.name].uid == inspect.uid


def test_retry_frees_what_was_rejected():
    world = World(canary_gets_ready=False).run()
    assert world.ready == ("False", "CanaryNotReady")
    world.canary_gets_ready = True
    assert world.run().ready == ("False", "CanaryNotReady"), "a rejected checkpoint is not rolled out by itself"
    world.annotations[names.RETRY_ANNOTATION] = world.run_id
    assert world.run().ready == ("True", "Promoted")
    assert world.status.rejected == []


APPROVAL = {"approval": "Required"}


def approve(world: World) -> str:
    """Do as the message says, and return the annotation's value."""
    _, _, value = world.message.partition(f" {names.PROMOTE_ANNOTATION}=")
    assert value, world.message
    world.annotations[names.PROMOTE_ANNOTATION] = value
    return value


OTHERS = [
    ("another run", f"another-run/{GPTQ}/50"),
    ("another checkpoint of this run", f"RUN/{INT8}/50"),
    ("another step", f"RUN/{GPTQ}/20"),
    ("the run as a whole", "RUN"),
]


@pytest.mark.parametrize("value", [row[1] for row in OTHERS], ids=[row[0] for row in OTHERS])
def test_a_word_about_something_else_is_no_approval(value: str):
    world = with_steps({"weight": 50} | APPROVAL).run()
    world.annotations[names.PROMOTE_ANNOTATION] = value.replace("RUN", world.run_id)
    assert world.run().ready == ("False", "AwaitingApproval")


def test_each_step_that_needs_approval_needs_its_own():
    world = with_steps({"weight": 20} | APPROVAL, {"weight": 50} | APPROVAL).run()
    approve(world)
    world.run()
    assert world.ready == ("False", "AwaitingApproval")
    assert world.status.rollout is not None
    assert world.status.rollout.step == 1
    approve(world)
    assert world.run().ready == ("True", "Promoted")


def test_a_step_whose_weight_is_changed_is_approved_anew():
    world = with_steps({"weight": 20} | APPROVAL).run()
    approve(world)
    world.change(rollout=dict(builders.ROLLOUT) | {"steps": [{"weight": 50} | APPROVAL]})
    assert world.run().ready == ("False", "AwaitingApproval")


EDITS: list[tuple[str, list[dict[str, Any]], int]] = [
    ("a finished one is dropped, the last one is left", [{"weight": 50} | APPROVAL], 0),
    ("a finished one is dropped, more follow", [{"weight": 50} | APPROVAL, {"weight": 90}], 0),
    ("one is put before it", [{"weight": 5}, {"weight": 20}, {"weight": 50} | APPROVAL], 2),
    ("all are replaced by a later one", [{"weight": 90} | APPROVAL], 0),
]


@pytest.mark.parametrize(("steps", "number"), [row[1:] for row in EDITS], ids=[row[0] for row in EDITS])
def test_a_step_that_waits_for_approval_waits_though_the_steps_around_it_change(
    steps: list[dict[str, Any]], number: int
):
    world = with_steps({"weight": 20}, {"weight": 50} | APPROVAL).run()
    assert world.ready == ("False", "AwaitingApproval")
    world.change(rollout=dict(builders.ROLLOUT) | {"steps": steps})
    assert world.run().ready == ("False", "AwaitingApproval")
    assert world.status.rollout is not None
    assert (world.status.rollout.step, world.overlay) == (number, None)
    approve(world)
    assert world.run().ready == ("True", "Promoted")


def test_a_step_that_stays_what_it_is_goes_on_though_its_number_changes():
    world = with_steps({"weight": 20}, {"weight": 50, "pause": "10m"})
    world.run(until=lambda world: world.ready[1] == "CanaryPaused")
    world.now += timedelta(minutes=9)
    world.change(rollout=dict(builders.ROLLOUT) | {"steps": [{"weight": 50, "pause": "10m"}]})
    decision = world.step()
    assert (world.ready, decision.requeue_after) == (("False", "CanaryPaused"), 60)


def test_a_step_of_another_weight_has_a_pause_of_its_own_though_it_has_as_many_pods():
    world = with_steps({"weight": 50, "pause": "10m"})
    world.run(until=lambda world: world.ready[1] == "CanaryPaused")
    world.now += timedelta(minutes=9)
    world.change(rollout=dict(builders.ROLLOUT) | {"steps": [{"weight": 90, "pause": "10m"}]})
    assert world.canary is not None
    pods = world.canary.replicas
    decision = world.step()
    assert (world.ready, decision.requeue_after) == (("False", "CanaryPaused"), 600)
    assert (world.canary.replicas, decision.actions) == (pods, ())


def test_what_another_candidate_was_approved_for_is_none_of_the_one_selected_later():
    world = with_steps({"weight": 50} | APPROVAL, divergences={"rtn-int4": 0.5, "int8": 0.01}).run()
    run = world.run_id
    approve(world)
    world.run()
    assert (world.ready, world.overlay) == (("True", "Promoted"), GPTQ)
    world.change(selection="BestQuality", rollout=dict(builders.ROLLOUT) | {"steps": [{"weight": 50} | APPROVAL]})
    world.run()
    assert (world.run_id, world.ready, world.overlay) == (run, ("False", "AwaitingApproval"), GPTQ)
    approve(world)
    world.run()
    assert (world.ready, world.overlay) == (("True", "Promoted"), INT8)


def test_abort_while_jobs_run_ends_them():
    world = World(script=lambda stage, *_: Runs() if stage is Stage.QUANTIZE else None).run()
    world.annotations[names.ABORT_ANNOTATION] = world.run_id
    world.run()
    assert world.ready == ("False", "Aborted")
    assert not any(job.phase is JobPhase.RUNNING for job in world.jobs.values())
    del world.annotations[names.ABORT_ANNOTATION]
    world.script = lambda *_: None
    assert world.run().ready == ("True", "Promoted")


ABORTED_AT = ["CanaryPaused", "Promoting"]


@pytest.mark.parametrize("reason", ABORTED_AT)
def test_abort_during_a_roll_out_gives_the_target_back(reason: str):
    world = World().run(until=lambda world: world.ready[1] == reason)
    world.annotations[names.ABORT_ANNOTATION] = world.run_id
    world.run()
    assert world.ready == ("False", "Aborted")
    assert (world.overlay, world.canary) == (None, None)
    assert [each.checkpoint_digest for each in world.status.rejected] == [GPTQ]
    del world.annotations[names.ABORT_ANNOTATION]
    assert world.run().ready == ("False", "Aborted"), "it is remembered"


def test_abort_after_the_promotion_changes_nothing():
    world = World().run()
    world.annotations[names.ABORT_ANNOTATION] = world.run_id
    assert world.run().ready == ("True", "Promoted")


def test_a_step_that_needs_approval_waits_for_it():
    world = with_steps({"weight": 50, "approval": "Required"}).run()
    assert world.ready == ("False", "AwaitingApproval")
    assert world.condition("Reconciling") is None
    assert approve(world) == f"{world.run_id}/{GPTQ}/50"
    assert world.message.startswith("gptq-int4, step 1 of 1 (50 %): waits for approval.")
    assert world.run().ready == ("True", "Promoted")


def test_suspend_holds_everything_where_it_is_and_ready_stays():
    world = World().run(until=lambda world: world.ready[1] == "CanaryPaused")
    done, size = len(world.acts), world.canary.replicas if world.canary else 0
    world.change(suspend=True)
    world.now += timedelta(days=1)
    world.run()
    assert (len(world.acts), world.canary.replicas if world.canary else 0) == (done, size)
    assert (world.status.phase, world.ready) == ("Suspended", ("False", "CanaryPaused"))
    assert world.condition("Reconciling") is None
    world.change()
    assert world.run().ready == ("True", "Promoted")


def test_a_resource_that_is_suspended_from_the_start_begins_nothing():
    world = World(spec=builders.spec(suspend=True)).run()
    assert (world.ready, world.jobs, world.status.run) == (("False", "Suspended"), {}, None)


def test_a_lost_status_is_read_back_from_the_target():
    world = World().run()
    promoted, done = world.status.promoted, len(acts(world))
    assert promoted is not None
    world.status = QuantizedModelStatus()
    world.run()
    assert world.ready == ("True", "Promoted")
    again = world.status.promoted
    assert again is not None
    assert (again.candidate, again.checkpoint_digest, again.run_id) == ("gptq-int4", GPTQ, promoted.run_id)
    assert len(acts(world)) == done


def test_a_status_lost_in_a_promotion_brings_fresh_steps():
    world = World(target_gets_ready=False).run(until=lambda world: world.overlay is not None)
    world.status = QuantizedModelStatus()
    world.target_gets_ready = True
    seen = len(world.written)
    world.run()
    world.written = world.written[seen:]
    assert "CanaryPaused" in reasons_of(world)
    assert world.ready == ("True", "Promoted")
