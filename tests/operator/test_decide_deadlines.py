"""What ends the waiting for pods: how often a canary may be lost, and what of the time does not count."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from deciding import builders
from deciding.world import World
from deciding.worlds import acts, with_steps

from saffron_operator.observed import SpecError

DEADLINE = 600
"""progressDeadlineSeconds of the tests' spec."""


def flap(world: World, *, ready: int, unready: int) -> bool:
    """The canary serves for so many seconds, then is not ready for so many; return whether it is still there."""
    for gets_ready, seconds in ((True, ready), (False, unready)):
        world.canary_gets_ready = gets_ready
        world.move()
        world.step()
        world.now += timedelta(seconds=seconds)
    world.step()
    return world.ready[1] in {"CanaryStarting", "CanaryPaused", "AwaitingApproval"}


FLAPS = [
    ("each takes nearly too long", 60, DEADLINE - 1),
    ("each takes a second", DEADLINE - 1, 1),
    ("each is over within the second", 0, 0),
]


@pytest.mark.parametrize(("ready", "unready"), [row[1:] for row in FLAPS], ids=[row[0] for row in FLAPS])
def test_a_canary_that_is_ready_and_not_in_turns_is_given_up_at_the_tenth_time(ready: int, unready: int):
    world = World().run(until=lambda world: world.ready[1] == "CanaryPaused")
    for _ in range(9):
        assert flap(world, ready=ready, unready=unready)
    assert not flap(world, ready=ready, unready=unready)
    world.run()
    assert world.ready == ("False", "CanaryNotReady")
    assert world.message.startswith(
        "The canary of gptq-int4 lost its pods 10 times in one step (CrashLoopBackOff: back-off 10s) and was removed; "
        "the target serves what it served before."
    )
    assert (world.canary, world.status.rollout) == (None, None)


def test_a_canary_that_somebody_removes_again_and_again_is_given_up():
    world = World()
    for _ in range(10):
        world.run(until=lambda world: world.ready[1] == "CanaryPaused")
        world.canary = None
    assert world.run().ready == ("False", "CanaryNotReady")


def test_a_canary_that_has_served_long_enough_begins_to_be_counted_anew():
    world = with_steps({"weight": 50, "approval": "Required"})
    world.run(until=lambda world: world.ready[1] == "AwaitingApproval")
    for _ in range(30):
        assert flap(world, ready=DEADLINE, unready=DEADLINE - 1)
    for _ in range(8):  # the last one that had served for long counts
        assert flap(world, ready=DEADLINE - 1, unready=DEADLINE - 1)
    assert not flap(world, ready=DEADLINE - 1, unready=DEADLINE - 1)


def test_what_a_step_has_lost_does_not_count_in_the_next_one():
    world = World().run(until=lambda world: world.ready[1] == "CanaryPaused")
    for _ in range(9):
        assert flap(world, ready=60, unready=60)
    world.canary_gets_ready = True
    world.run(until=lambda world: world.status.rollout is not None and world.status.rollout.step == 1)
    assert world.status.rollout is not None
    assert world.status.rollout.step_losses == 0


def test_a_canary_that_follows_its_target_is_counted_anew():
    world = World().run(until=lambda world: world.ready[1] == "CanaryPaused")
    for number in range(30):
        assert flap(world, ready=60, unready=DEADLINE - 1)
        assert world.deployment is not None
        world.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = f"localhost/engine:{number}"
        world.step()
        assert world.status.rollout is not None
        assert world.status.rollout.step_losses == 0


# --- while nobody looks ------------------------------------------------------------------------------------------


def away(world: World) -> None:
    """The operator is away for much longer than anything is waited for; another process looks then."""
    world.now += timedelta(hours=2)
    world.attending_since = world.now


def test_a_canary_that_nobody_made_before_the_deadline_is_made_and_waited_for():
    world = World().run(until=lambda world: world.status.rollout is not None)
    world.canary = None
    away(world)
    world.step()
    assert (world.ready, world.canary is not None) == (("False", "CanaryStarting"), True)
    assert world.run().ready == ("True", "Promoted")


def test_a_canary_that_is_not_ready_when_somebody_looks_again_has_all_its_time():
    world = World(canary_gets_ready=False).run(until=lambda world: world.canary is not None)
    world.move()
    away(world)
    decision = world.step()
    assert (world.ready, decision.requeue_after) == (("False", "CanaryStarting"), DEADLINE)
    world.now += timedelta(seconds=DEADLINE)
    world.step()
    assert world.ready == ("False", "Undoing")


@pytest.mark.parametrize(
    ("seen", "reason"),
    [({"current": True}, "Undoing"), ({"current": False}, "CanaryStarting")],
    ids=["as it is", "as it was before it was changed"],
)
def test_a_canary_that_kubernetes_found_stuck_meanwhile_has_no_more(seen: dict[str, Any], reason: str):
    world = World(canary_gets_ready=False).run(until=lambda world: world.canary is not None)
    world.move()
    assert world.canary is not None
    world.canary = replace(world.canary, deadline_exceeded=True, **seen)
    assert world.run(until=lambda _: True).ready == ("False", "CanaryStarting"), "the deadline of the spec counts"
    away(world)
    world.step()
    assert world.ready == ("False", reason)


def test_a_promotion_that_nobody_began_before_the_deadline_is_done():
    world = World().run(until=lambda world: world.ready[1] == "Promoting")
    world.unmount()
    world.rolling_since = None
    del world.acts[:]
    away(world)
    assert world.run().ready == ("True", "Promoted")
    assert acts(world) == ["ApplyOverlay", "DeleteCanary"]


def test_a_promotion_that_lost_a_pod_when_somebody_looks_again_has_all_its_time():
    world = World(target_gets_ready=False).run(until=lambda world: world.ready[1] == "Promoting")
    away(world)
    world.step()
    assert world.ready == ("False", "Promoting")
    world.now += timedelta(seconds=DEADLINE)
    world.step()
    assert world.ready == ("False", "Undoing")


def test_no_time_counts_in_which_nothing_may_be_brought_on():
    world = World().run(until=lambda world: world.ready[1] == "CanaryPaused")
    assert not world.step().idle
    readable, target = world.spec, world.deployment
    world.change(suspend=True)
    assert world.step().idle
    world.spec = SpecError("spec.candidates.0.method: unknown")
    assert world.step().idle
    world.spec, world.deployment = readable, None
    assert world.step().idle
    world.deployment = target
    assert not world.step().idle


# --- a clock that was wrong --------------------------------------------------------------------------------------


def test_a_pause_that_began_by_a_clock_that_was_ahead_begins_again():
    world = World(now=builders.START + timedelta(days=30))
    world.run(until=lambda world: world.ready[1] == "CanaryPaused")
    world.now -= timedelta(days=20)
    decision = world.step()
    assert (world.ready, decision.requeue_after) == (("False", "CanaryPaused"), 600)
    assert world.run().ready == ("True", "Promoted")


def test_a_wait_that_began_by_a_clock_that_was_ahead_begins_again():
    world = World(canary_gets_ready=False, now=builders.START + timedelta(days=30))
    world.run(until=lambda world: world.canary is not None)
    world.now -= timedelta(days=20)
    world.move()
    decision = world.step()
    assert (world.ready, decision.requeue_after) == (("False", "CanaryStarting"), DEADLINE)


def test_a_promotion_that_began_by_a_clock_that_was_ahead_begins_to_wait_again():
    world = World(target_gets_ready=False, now=builders.START + timedelta(days=30))
    world.run(until=lambda world: world.ready[1] == "Promoting")
    world.now -= timedelta(days=20)
    world.rolling_since = world.now
    decision = world.step()
    assert (world.ready, decision.requeue_after) == (("False", "Promoting"), DEADLINE)
