"""The target: what keeps a resource from it, what goes wrong on it, and the end of the resource itself."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from deciding import builders
from deciding.world import Runs, World
from deciding.worlds import GPTQ, INT8, acts

from saffron_api.results import Stage
from saffron_operator import names, reasons
from saffron_operator.observed import SpecError


def test_a_canary_that_does_not_get_ready_is_removed_with_its_pods_reason():
    world = World(canary_gets_ready=False).run()
    assert world.ready == ("False", "CanaryNotReady")
    assert "CrashLoopBackOff: back-off 10s" in world.message
    assert acts(world) == ["ApplyCanary", "DeleteCanary"]
    assert world.status.rollout is None


def test_a_failed_promotion_takes_the_checkpoint_off_first():
    world = World(target_gets_ready=False).run()
    assert world.ready == ("False", "PromotionFailed")
    assert acts(world)[-3:] == ["ApplyOverlay", "RemoveOverlay", "DeleteCanary"]
    assert world.overlay is None


def test_a_failed_second_promotion_gives_the_first_checkpoint_back():
    world = World().run()
    world.target_gets_ready = False
    world.change(selection="BestQuality", gates={"klDivergence": {"max": 0.1}})
    world.divergences = {"int8": 0.01}
    world.jobs = {name: job for name, job in world.jobs.items() if job.candidate != "int8"}
    world.run(until=lambda world: world.overlay == INT8)
    world.run(until=lambda world: world.overlay != INT8)
    assert world.overlay == GPTQ
    world.target_gets_ready = True
    world.run()
    assert world.ready == ("False", "PromotionFailed")
    assert world.status.promoted is not None
    assert world.status.promoted.checkpoint_digest == GPTQ
    assert world.condition("TargetDrift") == "False"


def test_a_target_that_is_edited_meanwhile_gets_a_new_canary_and_the_step_starts_over():
    world = World().run(until=lambda world: world.ready[1] == "CanaryPaused")
    started = world.status.rollout and world.status.rollout.step_started_at
    world.now += timedelta(minutes=9)
    assert world.deployment is not None
    world.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "localhost/engine:2"
    world.run(
        until=lambda world: world.ready[1] == "CanaryPaused" and world.canary is not None and world.canary.ready > 0
    )
    again = world.status.rollout and world.status.rollout.step_started_at
    assert started is not None
    assert again is not None
    assert again >= started + timedelta(minutes=9)
    assert world.run().ready == ("True", "Promoted")


def test_a_checkpoint_that_somebody_takes_off_is_told_and_not_put_back():
    world = World().run()
    done = len(world.acts)
    world.unmount()
    world.run()
    assert world.ready == ("False", "TargetDrift")
    assert (world.condition("TargetDrift"), world.condition("Stalled"), world.condition("Reconciling")) == (
        "True",
        None,
        None,
    )
    assert len(world.acts) == done
    world.annotations[names.RETRY_ANNOTATION] = world.run_id
    assert world.run().ready == ("True", "Promoted")
    assert acts(world)[4:] == ["ApplyCanary", "ApplyCanary", "ApplyOverlay", "DeleteCanary"]


def _no_target(world: World) -> None:
    world.deployment = None


def _claimed(world: World) -> None:
    world.claimant = "older"


def _scaled(world: World) -> None:
    world.autoscaler = "HorizontalPodAutoscaler qwen"


def _shell(world: World) -> None:
    world.deployment = builders.deployment(container={"command": ["sh", "-c", "vllm serve /models/qwen"]})


def _others_overlay(world: World) -> None:
    done = World().run()
    world.deployment = done.deployment
    assert world.deployment is not None
    world.deployment["metadata"]["managedFields"][0]["manager"] = "saffron.dev-other"


def _also_held(world: World) -> None:
    """Another manager holds the annotation: say, one whose manifest was copied from a target of ours."""
    fields: dict[str, Any] = {"f:saffron.dev/checkpoint": {}}
    for step in ("f:annotations", "f:metadata", "f:template", "f:spec"):
        fields = {step: fields}
    assert world.deployment is not None
    rival = {"manager": "argocd", "operation": "Apply", "fieldsV1": fields}
    world.deployment["metadata"].setdefault("managedFields", []).append(rival)


def _quantizes(world: World) -> None:
    command = ["vllm", "serve", "/models/qwen", "--quantization", "fp8"]
    world.deployment = builders.deployment(container={"command": command})


OBSTACLES = [
    ("no Deployment", _no_target, "TargetNotFound", "create it or correct spec.rollout.targetRef"),
    ("an older claim", _claimed, "TargetClaimed", "target of older"),
    ("a shell", _shell, "TargetUnsupported", "a shell hides the model's path"),
    ("a server that quantizes itself", _quantizes, "TargetUnsupported", "(--quantization fp8)"),
    ("another manager", _also_held, "TargetConflict", "annotations[saffron.dev/checkpoint] (argocd)"),
    ("another one's checkpoint", _others_overlay, "TargetConflict", "remove that volume"),
]


@pytest.mark.parametrize(("happen", "reason", "words"), [row[1:] for row in OBSTACLES], ids=[r[0] for r in OBSTACLES])
def test_what_keeps_it_from_its_target_stalls_before_any_job(happen: Callable[[World], None], reason: str, words: str):
    world = World()
    happen(world)
    world.run()
    assert world.ready == ("False", reason)
    assert world.condition("Stalled") == "True"
    assert words in world.message
    assert (world.jobs, world.status.run) == ({}, None)


BETWEEN = [*OBSTACLES[:2], ("an autoscaler", _scaled, "TargetUnsupported", "")]


@pytest.mark.parametrize(("happen", "reason"), [(row[1], row[2]) for row in BETWEEN], ids=[row[0] for row in BETWEEN])
def test_what_comes_between_during_a_step_removes_the_canary(happen: Callable[[World], None], reason: str):
    world = World().run(until=lambda world: world.ready[1] == "CanaryPaused")
    happen(world)
    world.run()
    assert world.ready == ("False", reason)
    assert (world.canary, world.status.rollout) == (None, None)
    world.deployment, world.claimant, world.autoscaler = builders.deployment(), None, None
    assert world.run().ready == ("True", "Promoted")


def test_what_is_scaled_gets_its_figures_and_a_warning_and_no_roll_out():
    world = World()
    _scaled(world)
    world.run()
    assert world.ready == ("False", "TargetUnsupported")
    assert world.message == (
        "HorizontalPodAutoscaler qwen scales the Deployment qwen, and would take the canary's share for less load; "
        "remove it until the checkpoint is promoted."
    )
    assert world.candidates["gptq-int4"] == "Done Pass"
    assert world.status.selected is not None
    assert (acts(world), world.overlay) == ([], None)
    warned = [each.message for each in world.events if each.reason == "TargetWarning"]
    assert warned == [world.message]
    world.autoscaler = None
    assert world.run().ready == ("True", "Promoted")


def test_what_is_promoted_may_be_scaled_until_the_next_roll_out():
    world = World().run()
    _scaled(world)
    assert world.run().ready == ("True", "Promoted")
    world.change(selection="BestQuality", gates={"klDivergence": {"max": 1.0}})
    world.divergences = {"int8": 0.01}
    world.jobs = {name: job for name, job in world.jobs.items() if job.candidate != "int8"}
    assert world.run().ready == ("False", "TargetUnsupported")
    assert (world.overlay, world.canary) == (GPTQ, None)
    world.autoscaler = None
    world.run()
    assert (world.ready, world.overlay) == (("True", "Promoted"), INT8)


def test_what_is_promoted_may_be_held_by_others_until_the_next_roll_out():
    world = World().run()
    _also_held(world)
    assert world.run().ready == ("True", "Promoted")
    world.change(selection="BestQuality")
    world.divergences = {"int8": 0.01}
    world.jobs = {name: job for name, job in world.jobs.items() if job.candidate != "int8"}
    assert world.run().ready == ("False", "TargetConflict")
    assert (world.overlay, world.canary) == (GPTQ, None)
    assert world.deployment is not None
    world.deployment["metadata"]["managedFields"].pop()
    world.run()
    assert (world.ready, world.overlay) == (("True", "Promoted"), INT8)


def test_the_server_of_what_is_promoted_may_be_told_its_method():
    world = World().run()
    assert world.deployment is not None
    container = world.deployment["spec"]["template"]["spec"]["containers"][0]
    container["command"] = [*container["command"], "--quantization", "compressed-tensors"]
    assert world.run().ready == ("True", "Promoted")


def test_a_promotion_whose_fields_another_manager_takes_is_left_as_it_is():
    world = World(target_gets_ready=False).run(until=lambda world: world.overlay is not None)
    _also_held(world)
    decision = world.step()
    assert (world.ready, decision.actions) == (("False", "TargetConflict"), ())
    world.now += timedelta(hours=1)
    assert world.step().actions == (), "what it holds can't be taken back either"


def test_a_canary_of_somebody_else_is_left_alone():
    done = World().run(until=lambda world: world.canary is not None)
    assert done.canary is not None
    world = World(canary=replace(done.canary, owner_uid="somebody")).run()
    assert world.ready == ("False", "NameTaken")
    assert world.acts == []


def test_a_canary_that_another_one_has_left_is_waited_for():
    done = World().run(until=lambda world: world.canary is not None)
    assert done.canary is not None
    world = World(canary=replace(done.canary, owner_uid="gone", deleting=True))
    assert world.run().ready == ("True", "Promoted")
    assert acts(world) == ["ApplyCanary", "ApplyCanary", "ApplyOverlay", "DeleteCanary"]


def test_a_target_without_a_ready_pod_is_waited_for():
    world = World(target_ready=0).run()
    assert world.ready == ("False", "TargetNotReady")
    world.target_ready = 4
    assert world.run().ready == ("True", "Promoted")


def test_a_target_that_was_made_anew_gets_fresh_steps():
    world = World().run(until=lambda world: world.ready[1] == "Promoting")
    world.deployment = builders.deployment()
    world.deployment["metadata"]["uid"] = "anew"
    world.rolling_since = None
    world.run(until=lambda world: world.ready[1] == "CanaryPaused")
    assert world.status.rollout is not None
    assert (world.status.rollout.target_uid, world.status.rollout.step) == ("anew", 0)
    assert world.run().ready == ("True", "Promoted")


def test_a_promotion_that_has_begun_is_finished_though_the_next_run_works():
    world = World(target_gets_ready=False).run(until=lambda world: world.overlay is not None)
    world.script = lambda stage, *_: Runs() if stage is Stage.SAMPLE else None
    world.change(data={"source": {"dataset": {"uri": "pvc://data/prompts.jsonl"}}, "seed": 7})
    world.step()
    assert world.ready == ("False", "Promoting")
    world.target_gets_ready = True
    world.run()
    assert world.status.promoted is not None
    assert world.status.promoted.checkpoint_digest == GPTQ
    assert world.ready == ("False", "Sampling")


def test_a_spec_that_cannot_be_read_stalls_and_keeps_the_memory():
    world = World().run()
    promoted, done = world.status.promoted, len(world.acts)
    world.spec, world.generation = SpecError("spec.candidates.0.method: unknown"), 2
    world.run()
    assert world.ready == ("False", "SpecInvalid")
    assert "spec.candidates.0.method" in world.message
    assert (world.status.promoted, len(world.acts)) == (promoted, done)


def _unreadable_spec(world: World) -> None:
    world.spec, world.generation = SpecError("spec.candidates.0.method: unknown"), 2


UNSEEN = [("a spec that can't be read", _unreadable_spec), ("a target that hides its path", _shell)]


@pytest.mark.parametrize("happen", [row[1] for row in UNSEEN], ids=[row[0] for row in UNSEEN])
def test_nobody_is_said_to_have_taken_off_what_can_not_be_seen(happen: Callable[[World], None]):
    world = World().run()
    happen(world)
    world.run()
    told = {each.type: (each.status, each.message) for each in world.status.conditions}
    assert told["Promoted"] == (
        "False",
        f"gptq-int4 of run {world.run_id} was promoted; what the target serves can't be seen",
    )
    assert "TargetDrift" not in told


def test_a_resource_that_is_deleted_is_left_to_the_cluster():
    world = World().run()
    world.deleting = True
    decision = world.step()
    assert (decision.status, decision.actions, decision.requeue_after) == (None, (), None)


def test_every_reason_has_a_sentence_and_a_name_like_its_value():
    named = {name: value for name, value in vars(reasons).items() if name.isupper()}
    for name, value in named.items():
        assert name.replace("_", "").lower() == value.lower()


# --- steps -------------------------------------------------------------------------------------------------------


def test_steps_that_are_dropped_from_the_spec_are_not_waited_for():
    world = World().run(until=lambda world: world.status.rollout is not None and world.status.rollout.step == 1)
    world.change(rollout=dict(builders.ROLLOUT) | {"steps": [{"weight": 10}]})
    assert world.run().ready == ("True", "Promoted")


def test_a_canary_that_somebody_deletes_is_made_again_and_the_step_starts_over():
    world = World().run(until=lambda world: world.ready[1] == "CanaryPaused")
    assert world.canary is not None
    uid, started = world.canary.uid, world.status.rollout and world.status.rollout.step_started_at
    world.now += timedelta(minutes=9)
    world.canary = replace(world.canary, deleting=True)
    world.step()
    assert world.ready == ("False", "CanaryStarting")
    world.run(until=lambda world: world.ready[1] == "CanaryPaused")
    assert world.canary is not None
    assert world.canary.uid != uid
    assert (world.status.rollout and world.status.rollout.step_started_at) != started


def test_a_canary_that_loses_a_pod_begins_its_pause_again():
    world = World().run(until=lambda world: world.ready[1] == "CanaryPaused")
    world.now += timedelta(minutes=9)
    world.canary_gets_ready = False
    world.move()
    world.step()
    assert world.ready == ("False", "CanaryStarting")
    world.canary_gets_ready = True
    world.move()
    decision = world.step()
    assert (world.ready, decision.requeue_after) == (("False", "CanaryPaused"), 600)


def test_a_target_that_loses_all_its_pods_in_a_step_keeps_its_canary():
    world = World().run(until=lambda world: world.ready[1] == "CanaryPaused")
    world.target_ready = 0
    world.step()
    assert world.canary is not None
    assert not world.canary.deleting
    assert world.ready == ("False", "CanaryPaused")


@pytest.mark.parametrize("ready", [3, 0])
def test_a_target_that_loses_pods_in_a_step_does_not_lose_those_of_the_canary_too(ready: int):
    steps = {"steps": [{"weight": 50, "pause": "10m"}], "maxExtraReplicas": 4}
    world = World(spec=builders.spec(rollout=dict(builders.ROLLOUT) | steps))
    world.run(until=lambda world: world.ready[1] == "CanaryPaused")
    world.now += timedelta(minutes=9)
    world.target_ready = ready
    decision = world.step()
    assert world.canary is not None
    assert (world.canary.replicas, decision.actions, decision.requeue_after) == (4, (), 60)


def test_a_target_that_its_owner_makes_smaller_in_a_step_gets_a_smaller_canary():
    steps = {"steps": [{"weight": 50, "pause": "10m"}], "maxExtraReplicas": 4}
    world = World(spec=builders.spec(rollout=dict(builders.ROLLOUT) | steps))
    world.run(until=lambda world: world.ready[1] == "CanaryPaused")
    assert world.deployment is not None
    world.deployment["spec"]["replicas"] = world.target_ready = 2
    world.step()
    assert world.canary is not None
    assert world.canary.replicas == 2


def test_a_condition_keeps_its_time_until_its_status_changes():
    world = World().run(until=lambda world: world.ready[1] == "CanaryPaused")
    begun = {each.type: each.last_transition_time for each in world.status.conditions}
    assert begun["Ready"] == builders.START
    world.run()
    ended = {each.type: each.last_transition_time for each in world.status.conditions}
    assert ended["Ready"] > begun["Ready"]
    assert ended["Sampled"] == begun["Sampled"]
