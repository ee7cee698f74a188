"""A target that its owner scales to zero, and back: nothing serves meanwhile, and nothing is promoted unseen."""

from datetime import timedelta

from deciding.world import World
from deciding.worlds import acts


def scale(world: World, replicas: int, *, ready: int | None = None) -> None:
    assert world.deployment is not None
    world.deployment["spec"]["replicas"] = replicas
    world.target_ready = replicas if ready is None else ready


def test_a_target_without_pods_gets_no_canary_and_later_fresh_steps():
    world = World().run(until=lambda world: world.ready[1] == "CanaryPaused")
    scale(world, 0)
    world.run()
    assert world.ready == ("False", "TargetNotReady")
    assert (world.canary, world.status.rollout) == (None, None)
    scale(world, 4)
    world.run(until=lambda world: world.ready[1] == "CanaryPaused")
    assert world.status.rollout is not None
    assert world.status.rollout.step == 0
    assert world.run().ready == ("True", "Promoted")


def test_a_promotion_is_not_done_before_a_pod_has_it_and_is_not_late_without_pods():
    world = World(target_gets_ready=False).run(until=lambda world: world.ready[1] == "Promoting")
    scale(world, 0)
    world.rolling_since = None
    world.now += timedelta(hours=8)
    decision = world.step()
    assert (world.ready, decision.idle) == (("False", "TargetNotReady"), True)
    assert world.message == "The Deployment qwen has no pod (spec.replicas is 0); the promotion goes on when it has."
    world.run()
    assert (world.status.promoted, world.canary) == (None, None)
    scale(world, 4)
    world.attending_since = world.now  # as a process counts that saw it idle
    world.rolling_since = world.now
    world.step()
    assert world.ready == ("False", "Promoting")
    world.target_gets_ready = True
    assert world.run().ready == ("True", "Promoted")
    assert acts(world)[-2:] == ["ApplyOverlay", "DeleteCanary"]
    assert world.overlay is not None


def test_what_is_promoted_may_be_scaled_to_zero():
    world = World().run()
    scale(world, 0)
    assert world.run().ready == ("True", "Promoted")
    scale(world, 4)
    assert world.run().ready == ("True", "Promoted")
