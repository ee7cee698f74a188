"""A promotion, looked at pass by pass: what counts as done, what as stuck, and what must not interrupt it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from deciding import builders
from deciding.world import Ends, World
from deciding.worlds import GPTQ

from saffron_api.results import Stage
from saffron_operator.decide import decide
from saffron_operator.decision import Decision, DeleteJob, RemoveOverlay
from saffron_operator.observed import JobPhase


def promoting() -> World:
    """The overlay is on the target, whose pods are replaced."""
    world = World(target_gets_ready=False)
    return world.run(until=lambda world: world.overlay is not None)


def with_target(world: World, **changes: Any) -> Decision:
    """What a pass decides if the target looks otherwise."""
    seen = world.observe()
    assert seen.target is not None
    return decide(replace(seen, target=replace(seen.target, **changes)), world.now)


def reason(decision: Decision) -> str:
    """Ready's reason."""
    assert decision.status is not None
    return next(each.reason for each in decision.status.conditions if each.type == "Ready")


DONE = {"total": 4, "updated": 4, "available": 4, "ready": 4}


def test_it_is_done_when_every_pod_has_it_and_is_available():
    world = promoting()
    decision = with_target(world, **DONE)
    assert decision.status is not None
    assert decision.status.promoted is not None
    assert decision.status.promoted.checkpoint_digest == GPTQ


def test_it_is_not_done_before_the_status_speaks_of_the_new_template():
    assert reason(with_target(promoting(), current=False, **DONE)) == "Promoting"


def test_it_is_not_done_while_a_pod_of_the_old_template_is_left():
    assert reason(with_target(promoting(), **(DONE | {"total": 5}))) == "Promoting"


def test_it_is_not_done_while_a_pod_is_not_available():
    assert reason(with_target(promoting(), **(DONE | {"available": 3}))) == "Promoting"


def test_a_target_that_is_stuck_by_its_own_deadline_is_not_waited_for():
    decision = with_target(promoting(), deadline_exceeded=True)
    assert reason(decision) == "Undoing"
    assert isinstance(decision.actions[0], RemoveOverlay)


def test_a_deadline_of_the_template_before_is_none_of_this_one():
    assert reason(with_target(promoting(), deadline_exceeded=True, current=False)) == "Promoting"


def test_a_large_target_has_time_as_long_as_it_gets_on():
    world = promoting()
    world.now += timedelta(seconds=700)
    assert reason(with_target(world, progressed_at=world.now - timedelta(seconds=500))) == "Promoting"
    assert reason(with_target(world, progressed_at=world.now - timedelta(seconds=600))) == "Undoing"


def test_a_target_whose_pods_get_ready_and_die_in_turns_is_not_waited_for_longer_than_its_pods_one_after_the_other():
    world = promoting()
    for seconds, expected in ((4 * 600 - 1, "Promoting"), (4 * 600, "Undoing")):
        world.now = builders.START + timedelta(seconds=seconds) + _begun(world)
        assert reason(with_target(world, progressed_at=world.now - timedelta(seconds=9))) == expected
    decision = with_target(world, progressed_at=world.now)
    assert decision.status is not None
    assert decision.status.rejected[0].reason == "PromotionFailed"


def _begun(world: World) -> timedelta:
    assert world.status.rollout is not None
    return world.status.rollout.step_entered_at - builders.START


def test_a_target_that_its_owner_paused_is_waited_for_without_a_deadline():
    world = World(target_gets_ready=False).run(until=lambda world: world.ready[1] == "Promoting")
    world.now += timedelta(hours=8)
    for changes in ({"paused": True}, {"paused": True, "deadline_exceeded": True}):
        decision = with_target(world, **changes)
        assert (reason(decision), decision.actions, decision.requeue_after) == ("TargetPaused", (), None)
        assert decision.idle
        assert decision.status is not None
        assert {each.type for each in decision.status.conditions}.isdisjoint({"Reconciling", "Stalled"})
        assert "kubectl -n serving rollout resume deployment/qwen" in decision.status.conditions[0].message
    world.attending_since = world.now
    # The Deployment's controller has not yet taken note that it goes on: it writes down when it does.
    decision = with_target(world, current=False)
    assert (reason(decision), decision.requeue_after) == ("Promoting", 600)
    assert reason(with_target(world, progressed_at=world.now)) == "Promoting"


def test_a_target_that_is_paused_when_its_turn_comes_is_not_changed():
    world = World().run(until=lambda world: world.canary is not None and world.canary.replicas == 2)
    world.move()
    decision = with_target(world, paused=True)
    assert reason(decision) == "TargetPaused"
    assert decision.actions == ()
    assert decision.status is not None
    assert decision.status.rollout is not None
    assert decision.status.rollout.desired_weight == 100


def test_what_is_promoted_may_be_paused():
    assert reason(with_target(World().run(), paused=True)) == "Promoted"


def test_what_comes_between_leaves_a_half_done_promotion_as_it_is():
    world = promoting()
    before, canary = world.status.rollout, world.canary
    world.claimant = "older"
    decision = world.step()
    assert (world.ready, decision.actions) == (("False", "TargetClaimed"), ())
    assert (world.status.rollout, world.canary) == (before, canary)
    world.claimant, world.target_gets_ready = None, True
    assert world.run().ready == ("True", "Promoted")


def test_a_finished_job_that_is_being_deleted_is_no_result():
    world = World().run(until=lambda world: world.ready[1] == "Sampling")
    name = next(name for name, job in world.jobs.items() if job.stage is Stage.INSPECT)
    world.jobs[name] = replace(world.jobs[name], deleting=True)
    world.step()
    assert world.ready == ("False", "Inspecting")


def test_an_attempt_without_a_readable_result_is_removed_when_the_next_is_there():
    world = World()
    unreadable = True

    def script(stage: Stage, *_: object) -> Ends | None:
        return Ends(None) if unreadable and stage is Stage.INSPECT else None

    world.script = script
    world.run(until=lambda world: len(world.jobs) == 2)
    unreadable = False
    first, second = world.jobs.values()
    assert (first.phase, first.attempt, second.attempt) == (JobPhase.SUCCEEDED, 1, 2)
    world.run()
    assert world.ready == ("True", "Promoted")
    assert DeleteJob(first.name, first.uid) in world.acts
    assert second.name in world.jobs


def test_a_word_for_a_resource_is_none_for_one_of_the_same_name_made_later():
    first, later = World().observe(), World().observe()
    later = replace(later, meta=builders.meta(uid="another"))
    ids = [
        decision.status.run.id
        for seen in (first, later)
        if (decision := decide(seen, builders.START)).status and decision.status.run
    ]
    assert len(set(ids)) == 2
