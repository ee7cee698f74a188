"""What ends the waiting for pods: how long a canary may take in all, and what of the time does not count."""

from datetime import timedelta

import pytest
from deciding.world import World
from deciding.worlds import with_steps

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
    ("each takes long", 60, 200, 3),
    ("each takes a second", 300, 1, 300),
    ("each is over within the second", 300, 0, 600),
]


@pytest.mark.parametrize(("ready", "unready", "times"), [row[1:] for row in FLAPS], ids=[row[0] for row in FLAPS])
def test_a_canary_that_is_ready_and_not_in_turns_is_given_up(ready: int, unready: int, times: int):
    world = World().run(until=lambda world: world.ready[1] == "CanaryPaused")
    lasted = 1
    while flap(world, ready=ready, unready=unready):
        lasted += 1
        assert lasted < 2 * DEADLINE, "it is never given up"
    assert lasted == times
    world.run()
    assert world.ready == ("False", "CanaryNotReady")
    assert world.message.startswith(
        "The canary of gptq-int4 was not ready within 600 s, all waits of this step added up "
        "(CrashLoopBackOff: back-off 10s) and was removed; the target serves what it served before."
    )
    assert (world.canary, world.status.rollout) == (None, None)


def test_a_canary_that_somebody_removes_again_and_again_is_given_up():
    world = World()
    for _ in range(DEADLINE + 2):
        world.run(until=lambda world: world.ready[1] in {"CanaryPaused", "CanaryNotReady"})
        if world.ready[1] == "CanaryNotReady":
            return
        world.canary = None
    raise AssertionError("it is never given up")


def test_a_canary_that_has_served_long_enough_is_waited_for_as_long_as_a_new_one():
    world = with_steps({"weight": 50, "approval": "Required"})
    world.run(until=lambda world: world.ready[1] == "AwaitingApproval")
    for _ in range(9):
        assert flap(world, ready=DEADLINE, unready=DEADLINE - 2)
    assert not flap(world, ready=DEADLINE - 1, unready=DEADLINE)


def test_what_a_step_has_waited_does_not_count_in_the_next_one():
    world = World().run(until=lambda world: world.ready[1] == "CanaryPaused")
    assert flap(world, ready=60, unready=DEADLINE - 2)
    world.canary_gets_ready = True
    world.run(until=lambda world: world.status.rollout is not None and world.status.rollout.step == 1)
    world.canary_gets_ready = False
    world.move()
    world.now += timedelta(seconds=DEADLINE - 1)
    world.step()
    assert world.ready == ("False", "CanaryStarting")


def test_a_canary_that_follows_its_target_is_waited_for_as_long_as_a_new_one():
    world = World().run(until=lambda world: world.ready[1] == "CanaryPaused")
    for number in range(9):
        assert flap(world, ready=60, unready=DEADLINE - 2)
        assert world.deployment is not None
        world.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = f"localhost/engine:{number}"
        world.step()
        assert world.status.rollout is not None
        assert world.status.rollout.step_waited_seconds == 0
