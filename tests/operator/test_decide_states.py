"""The table of states: for each what Ready, Reconciling and Stalled are, and the milestone that tells it."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from deciding import builders
from deciding.world import Fails, Hangs, Runs, World
from deciding.worlds import with_steps, without_rollout

from saffron_api.results import Stage
from saffron_operator import names


@dataclass(frozen=True)
class State:
    """One row: a world in that state and what its conditions are."""

    name: str
    world: Callable[[], World]
    phase: str
    ready: tuple[str, str]
    working: bool = False
    stalled: bool = False
    milestones: tuple[tuple[str, str | None], ...] = ()


def running(stage: Stage) -> World:
    return World(script=lambda at, *_: Runs() if at is stage else None).run()


def queued() -> World:
    world = World()
    world.step()
    return world


def until(reason: str) -> World:
    return World().run(until=lambda world: world.ready[1] == reason)


def starting() -> World:
    return World(canary_gets_ready=False).run(until=lambda world: world.ready[1] == "CanaryStarting")


def awaiting() -> World:
    return with_steps({"weight": 50, "approval": "Required"}).run()


def suspended(world: World) -> World:
    world.change(suspend=True)
    return world.run()


def aborted() -> World:
    world = until("CanaryPaused")
    world.annotations[names.ABORT_ANNOTATION] = world.run_id
    return world.run()


def refused(world: World) -> World:
    world.refused = "POST /apis/batch/v1/namespaces/serving/jobs: 403 Forbidden: exceeded quota"
    world.step()
    assert ("exceeded quota" in world.message) == (world.ready[1] == "Refused")
    return world


def drifted() -> World:
    world = World().run()
    world.unmount()
    return world.run()


def failing() -> World:
    return World(divergences=dict.fromkeys(("rtn-int4", "gptq-int4", "int8"), 0.5)).run()


def undoing() -> World:
    return World(canary_gets_ready=False).run(until=lambda world: world.ready[1] == "Undoing")


SAMPLED, QUANTIZED, PASSED, PROMOTED = "Sampled", "Quantized", "GatesPassed", "Promoted"
STATES = [
    State(
        "a Job queues", queued, "Inspecting", ("False", "Inspecting"), working=True, milestones=((SAMPLED, "False"),)
    ),
    State("the model is read", lambda: running(Stage.INSPECT), "Inspecting", ("False", "Inspecting"), working=True),
    State("samples are drawn", lambda: running(Stage.SAMPLE), "Sampling", ("False", "Sampling"), working=True),
    State(
        "candidates are made",
        lambda: running(Stage.QUANTIZE),
        "Quantizing",
        ("False", "Quantizing"),
        working=True,
        milestones=((SAMPLED, "True"), (QUANTIZED, "False")),
    ),
    State(
        "candidates are measured",
        lambda: running(Stage.EVALUATE),
        "Quantizing",
        ("False", "Quantizing"),
        working=True,
        milestones=((QUANTIZED, "False"), (PASSED, "False")),
    ),
    State(
        "the canary starts",
        starting,
        "Canary",
        ("False", "CanaryStarting"),
        working=True,
        milestones=((PASSED, "True"), (PROMOTED, "False")),
    ),
    State("the canary pauses", lambda: until("CanaryPaused"), "Canary", ("False", "CanaryPaused"), working=True),
    State("a person is asked", awaiting, "AwaitingApproval", ("False", "AwaitingApproval")),
    State("the target rolls", lambda: until("Promoting"), "Promoting", ("False", "Promoting"), working=True),
    State(
        "the canary ends",
        lambda: until("RemovingCanary"),
        "Promoting",
        ("False", "RemovingCanary"),
        working=True,
        milestones=((PROMOTED, "True"),),
    ),
    State(
        "promoted",
        lambda: World().run(),
        "Promoted",
        ("True", "Promoted"),
        milestones=((PROMOTED, "True"), ("QualityHealthy", "Unknown"), ("TargetDrift", "False")),
    ),
    State(
        "a checkpoint and no rollout",
        lambda: without_rollout().run(),
        "Ready",
        ("True", "CheckpointReady"),
        milestones=((PASSED, "True"), (PROMOTED, "False")),
    ),
    State(
        "suspended in a step",
        lambda: suspended(until("CanaryPaused")),
        "Suspended",
        ("False", "CanaryPaused"),
        milestones=((PASSED, "True"),),
    ),
    State(
        "suspended when promoted",
        lambda: suspended(World().run()),
        "Suspended",
        ("True", "Promoted"),
        milestones=((PROMOTED, "True"),),
    ),
    State(
        "no candidate passed",
        failing,
        "Stalled",
        ("False", "NoCandidatePassed"),
        stalled=True,
        milestones=((QUANTIZED, "True"), (PASSED, "False")),
    ),
    State("something is undone", undoing, "Undoing", ("False", "Undoing"), working=True),
    State("aborted", aborted, "Stalled", ("False", "Aborted"), stalled=True, milestones=((PROMOTED, "False"),)),
    State(
        "an image is not there",
        lambda: World(script=lambda *_: Hangs()).run(),
        "Stalled",
        ("False", "ImageUnavailable"),
        stalled=True,
    ),
    State(
        "a shared stage failed",
        lambda: World(script=lambda *_: Fails(out_of_memory=True)).run(),
        "Stalled",
        ("False", "OutOfMemory"),
        stalled=True,
    ),
    State(
        "the API server does not take the next Job",
        lambda: refused(World()),
        "Stalled",
        ("False", "Refused"),
        stalled=True,
    ),
    State(
        "the API server did not take something before it was done",
        lambda: refused(World().run()),
        "Promoted",
        ("True", "Promoted"),
        milestones=((PROMOTED, "True"),),
    ),
    State(
        "no target",
        lambda: World(deployment=None).run(),
        "Stalled",
        ("False", "TargetNotFound"),
        stalled=True,
    ),
    State(
        "a target without pods",
        lambda: World(target_ready=0).run(),
        "Canary",
        ("False", "TargetNotReady"),
        working=True,
        milestones=((PASSED, "True"),),
    ),
    State(
        "somebody took it off",
        drifted,
        "Drifted",
        ("False", "TargetDrift"),
        milestones=(("TargetDrift", "True"), (PROMOTED, "False")),
    ),
]


@pytest.mark.parametrize("state", STATES, ids=[state.name for state in STATES])
def test_each_state_shows_as_the_table_says(state: State):
    world = state.world()
    assert (world.status.phase, world.ready) == (state.phase, state.ready)
    assert world.condition("Reconciling") == ("True" if state.working else None)
    assert world.condition("Stalled") == ("True" if state.stalled else None)
    assert tuple((kind, world.condition(kind)) for kind, _ in state.milestones) == state.milestones


def test_the_conditions_of_a_fresh_resource_are_all_there_from_the_first_pass():
    world = World()
    world.step()
    assert [(each.type, each.status) for each in world.status.conditions] == [
        ("Ready", "False"),
        ("Reconciling", "True"),
        ("Sampled", "False"),
        ("Quantized", "False"),
        ("GatesPassed", "False"),
        ("Promoted", "False"),
    ]
    assert world.status.observed_generation == 1
    assert world.status.run is not None
    assert (world.status.run.quantizer_image, world.status.run.engine_image) == (builders.IMAGE, "localhost/engine:1")
