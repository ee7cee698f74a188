"""Whole runs of `decide` in a tiny world: from apply to where it ends, and what becomes of each candidate."""

from datetime import timedelta
from typing import Any

import pytest
from deciding import builders
from deciding.world import Ends, Fails, Hangs, Outcome, Runs, World
from deciding.worlds import GPTQ, INT8, acts, reasons_of, script, without_rollout

from saffron_api.failures import Failure, FailureReason
from saffron_api.results import PredictedSize, Stage
from saffron_operator import names
from saffron_operator.decision import (
    CreateJob,
    DeleteJob,
    EventType,
    KeepResult,
)


def test_a_run_goes_all_the_way_to_promoted():
    world = World().run()
    assert world.ready == ("True", "Promoted"), world.message
    assert reasons_of(world) == [
        "Inspecting",
        "Sampling",
        "Quantizing",
        "CanaryStarting",
        "CanaryPaused",
        "Promoting",
        "RemovingCanary",
        "Promoted",
    ]
    assert world.candidates == {"rtn-int4": "Done Fail", "gptq-int4": "Done Pass", "int8": "Done Pass"}
    assert acts(world) == ["ApplyCanary", "ApplyCanary", "ApplyOverlay", "DeleteCanary"]
    assert world.overlay == GPTQ
    status = world.status
    assert status.promoted is not None
    assert status.rollout is not None
    assert status.selected is not None
    assert (status.promoted.candidate, status.promoted.checkpoint_digest) == ("gptq-int4", GPTQ)
    assert status.selected.uri == f"pvc://checkpoints/saffron/{GPTQ}"
    assert (status.rollout.desired_weight, status.rollout.actual_weight) == (100, 100)
    assert {each.type: each.status for each in status.conditions} == {
        "Ready": "True",
        "Sampled": "True",
        "Quantized": "True",
        "GatesPassed": "True",
        "Promoted": "True",
        "QualityHealthy": "Unknown",
        "TargetDrift": "False",
    }


def test_without_a_rollout_it_ends_with_a_checkpoint():
    world = without_rollout().run()
    assert world.ready == ("True", "CheckpointReady")
    assert acts(world) == []
    assert world.status.selected is not None
    assert world.status.selected.name == "gptq-int4"


def test_each_result_is_kept_on_its_job():
    world = without_rollout().run()
    kept = {act.name for act in world.acts if isinstance(act, KeepResult)}
    assert kept == set(world.jobs)


def test_no_more_jobs_at_a_time_than_asked_for_and_the_baseline_first():
    world = without_rollout(script=script({(Stage.BASELINE, None): Runs()}))
    world.run()
    assert [job.stage for job in world.jobs.values()] == [Stage.INSPECT, Stage.SAMPLE, Stage.BASELINE]
    world.change(rollout=None, job={"parallelism": 3})
    world.run()
    running = [(job.stage, job.candidate) for job in world.jobs.values()]
    assert running[3:] == [(Stage.QUANTIZE, "rtn-int4"), (Stage.QUANTIZE, "gptq-int4"), (Stage.QUANTIZE, "int8")]


def test_an_inspect_for_other_candidates_is_stopped_before_the_next_begins():
    world = without_rollout()
    world.step()
    (before,) = world.jobs
    world.change(rollout=None, candidates=[{"name": "int8", "method": "RTN", "scheme": "W8A8"}])
    decided = world.step().actions
    (deleted,) = [act.name for act in decided if isinstance(act, DeleteJob)]
    (created,) = [act.name for act in decided if isinstance(act, CreateJob)]
    assert (deleted, created.startswith("qwen-inspect-")) == (before, True)
    assert created != before


def test_evaluate_waits_for_the_baseline():
    world = World(
        spec=builders.spec(rollout=None, job={"parallelism": 8}), script=script({(Stage.BASELINE, None): Runs()})
    ).run()
    assert world.ready == ("False", "Quantizing")
    assert not any(job.stage is Stage.EVALUATE for job in world.jobs.values())
    assert world.condition("Quantized") == "True"


def test_a_second_pass_at_rest_decides_nothing():
    world = World().run()
    decision = world.step()
    assert decision.actions == ()
    assert decision.events == ()
    assert decision.status == world.written[-2]


def test_events_tell_each_change_once():
    world = World().run()
    assert [(event.type, event.reason) for event in world.events] == [
        (EventType.NORMAL, "RunStarted"),
        (EventType.NORMAL, "Inspecting"),
        (EventType.NORMAL, "Sampling"),
        (EventType.NORMAL, "Quantizing"),
        (EventType.NORMAL, "CanaryStarting"),
        (EventType.NORMAL, "StepStarted"),
        (EventType.WARNING, "WeightGap"),
        (EventType.NORMAL, "CanaryPaused"),
        (EventType.NORMAL, "CanaryStarting"),
        (EventType.NORMAL, "StepStarted"),
        (EventType.WARNING, "WeightGap"),
        (EventType.NORMAL, "Promoting"),
        (EventType.NORMAL, "RemovingCanary"),
        (EventType.NORMAL, "Promoted"),
    ]


def test_a_target_that_may_lose_requests_is_warned_about_once():
    world = World(deployment=builders.deployment(container={"lifecycle": None}))
    world.step()
    world.move()
    world.step()
    warnings = [event.message for event in world.events if event.reason == "TargetWarning"]
    assert len(warnings) == 1
    assert warnings[0].startswith("containers[server].lifecycle.preStop is missing")


CANDIDATE_ENDS: list[tuple[str, dict[tuple[Stage, str | None], Outcome], str]] = [
    (
        "a known failure",
        {
            (Stage.QUANTIZE, "rtn-int4"): Fails(
                builders.failure(Stage.QUANTIZE, FailureReason.STORAGE_FULL, subject="/mnt", need=2, have=1)
            )
        },
        "Failed Error StorageFull",
    ),
    ("killed for memory", {(Stage.QUANTIZE, "rtn-int4"): Fails(out_of_memory=True)}, "Failed Error OutOfMemory"),
    (
        "ran for too long",
        {(Stage.QUANTIZE, "rtn-int4"): Fails(reason="DeadlineExceeded")},
        "Failed Error JobFailed",
    ),
    ("image not there", {(Stage.QUANTIZE, "rtn-int4"): Hangs("ErrImagePull")}, "Failed Error ImageUnavailable"),
    ("no registry", {(Stage.QUANTIZE, "rtn-int4"): Hangs("RegistryUnavailable")}, "Failed Error ImageUnavailable"),
    ("not signed", {(Stage.QUANTIZE, "rtn-int4"): Hangs("SignatureValidationFailed")}, "Failed Error ImageUnavailable"),
    (
        "container not made",
        {(Stage.EVALUATE, "rtn-int4"): Hangs("CreateContainerConfigError")},
        "Failed Error PodNotStarted",
    ),
    ("result not readable", {(Stage.EVALUATE, "rtn-int4"): Ends(None)}, "Failed Error ResultUnreadable"),
    (
        "a result of another stage",
        {(Stage.QUANTIZE, "rtn-int4"): Ends(builders.sampled())},
        "Failed Error ResultUnreadable",
    ),
    (
        "figures of another checkpoint",
        {(Stage.EVALUATE, "rtn-int4"): Ends(builders.evaluated("int8"))},
        "Failed Error InputChanged",
    ),
    (
        "too few conversations",
        {(Stage.EVALUATE, "rtn-int4"): Ends(builders.evaluated("rtn-int4", units=29))},
        "Done Inconclusive",
    ),
]


@pytest.mark.parametrize(
    ("outcomes", "expected"), [row[1:] for row in CANDIDATE_ENDS], ids=[r[0] for r in CANDIDATE_ENDS]
)
def test_one_bad_candidate_does_not_stop_the_others(outcomes: dict[Any, Outcome], expected: str):
    world = without_rollout(script=script(outcomes)).run()
    assert world.candidates == {"rtn-int4": expected, "gptq-int4": "Done Pass", "int8": "Done Pass"}
    assert world.ready == ("True", "CheckpointReady")


SHARED_ENDS: list[tuple[str, Stage, Outcome, str, str]] = [
    (
        "the model is missing",
        Stage.INSPECT,
        Fails(builders.failure(Stage.INSPECT, FailureReason.MODEL_MISSING, subject="/mnt/model/qwen")),
        "ModelMissing",
        "There is no model at /mnt/model/qwen; check the claim and the path",
    ),
    (
        "the data set is too small",
        Stage.SAMPLE,
        Fails(builders.failure(Stage.SAMPLE, FailureReason.TOO_FEW_CONVERSATIONS, subject="p.jsonl", have=3, need=9)),
        "TooFewConversations",
        "has 3 usable conversations and 9 are needed",
    ),
    ("the baseline needs more memory", Stage.BASELINE, Fails(out_of_memory=True), "OutOfMemory", "limits.memory"),
    (
        "an image is not there",
        Stage.SAMPLE,
        Hangs(),
        "ImageUnavailable",
        "imagePullSecrets of the service account default",
    ),
    ("a message is never readable", Stage.INSPECT, Ends(None), "ResultUnreadable", "completed 3 times"),
]


@pytest.mark.parametrize(
    ("stage", "outcome", "reason", "words"), [row[1:] for row in SHARED_ENDS], ids=[r[0] for r in SHARED_ENDS]
)
def test_what_all_candidates_need_stalls_the_run(stage: Stage, outcome: Outcome, reason: str, words: str):
    world = World(script=script({(stage, None): outcome})).run()
    assert world.ready == ("False", reason)
    assert world.condition("Stalled") == "True"
    assert words in world.message
    assert f"saffron.dev/retry={world.run_id}" in world.message


def test_a_candidate_that_overflows_is_an_error_of_it_alone():
    overflow = Fails(builders.failure(Stage.EVALUATE, FailureReason.MODEL_NOT_FINITE, subject="model.layers.3"))
    world = World(script=script({(Stage.EVALUATE, "gptq-int4"): overflow})).run()
    assert world.candidates["gptq-int4"] == "Failed Error ModelNotFinite"
    assert (world.ready, world.overlay) == (("True", "Promoted"), INT8)


def test_a_job_without_a_readable_result_is_done_again_at_most_three_times():
    world = without_rollout(script=script({(Stage.INSPECT, None): Ends(None)})).run()
    created = [act for act in world.acts if isinstance(act, CreateJob)]
    assert [act.manifest["metadata"]["annotations"][names.ATTEMPT_ANNOTATION] for act in created] == ["1", "2", "3"]
    assert len({act.name for act in created}) == 3


def test_an_image_that_comes_late_is_no_failure():
    outcomes: dict[tuple[Stage, str | None], Outcome] = {(Stage.INSPECT, None): Hangs()}
    world = World(script=lambda stage, candidate, _: outcomes.get((stage, candidate))).run()
    assert world.ready == ("False", "ImageUnavailable")
    outcomes.clear()
    assert world.run().ready == ("True", "Promoted")


def test_a_pod_without_a_node_waits_without_a_verdict():
    world = without_rollout(script=script({(Stage.INSPECT, None): Hangs("Unschedulable")}))
    world.now += timedelta(hours=5)
    assert world.run().ready == ("False", "Inspecting")
    assert "Unschedulable: it hangs" in world.message


def test_a_candidate_that_must_miss_its_size_gets_no_job():
    gates = {"klDivergence": {"max": 0.1}, "checkpointBytesRatio": {"max": 0.6}}
    world = World(spec=builders.spec(rollout=None, gates=gates)).run()
    assert world.candidates["int8"] == "Done Fail TooLarge"
    assert not any(job.candidate == "int8" for job in world.jobs.values())
    (figure,) = next(each.figures for each in world.status.candidates if each.name == "int8")
    assert (figure.value, figure.limit) == (0.75, 0.6)


def test_a_candidate_that_can_not_be_made_of_this_model_stops_no_other():
    failure = Failure(reason=FailureReason.SHAPE_UNSUPPORTED, subject="model.layers.0.mlp.down_proj", have=96, need=128)
    found = builders.inspected(("rtn-int4", "int8"))
    refused = PredictedSize(name="gptq-int4", failure=failure)
    inspected = found.model_copy(update={"predicted": [*found.predicted, refused]})
    world = without_rollout(script=script({(Stage.INSPECT, None): Ends(inspected)})).run()
    assert world.ready == ("True", "CheckpointReady")
    assert world.candidates["gptq-int4"] == "Failed ShapeUnsupported"
    assert not any(job.candidate == "gptq-int4" for job in world.jobs.values())


def test_when_no_candidate_is_worth_a_job_only_the_model_is_read():
    world = World(spec=builders.spec(gates={"checkpointBytesRatio": {"max": 0.1}})).run()
    assert world.ready == ("False", "NoCandidatePassed")
    assert [job.stage for job in world.jobs.values()] == [Stage.INSPECT]


def test_what_the_engine_does_not_run_exactly_is_shown_and_gets_no_job():
    slow = Ends(builders.inspected(isa="AVX2"))
    world = World(script=script({(Stage.INSPECT, None): slow})).run()
    assert world.candidates == {
        "rtn-int4": "Unsupported EngineUnsupported",
        "gptq-int4": "Unsupported EngineUnsupported",
        "int8": "Unsupported EngineInexact",
    }
    assert world.ready == ("False", "NoCandidatePassed")
    assert "saturates" in (world.status.candidates[2].message or "")


def test_what_the_cards_of_the_target_can_not_share_is_shown_and_gets_no_job():
    found = builders.inspected()
    predicted = [
        each.model_copy(update={"tensor_parallel": 2 if "int4" in each.name else 4}) for each in found.predicted
    ]
    ends = Ends(found.model_copy(update={"predicted": predicted}))
    command = ["vllm", "serve", "/models/qwen", "--tensor-parallel-size", "4"]
    world = World(
        script=script({(Stage.INSPECT, None): ends}), deployment=builders.deployment(container={"command": command})
    ).run()
    assert world.candidates == {
        "rtn-int4": "Unsupported EngineUnsupported",
        "gptq-int4": "Unsupported EngineUnsupported",
        "int8": "Done Pass",
    }
    assert world.status.candidates[1].message == (
        "The target has --tensor-parallel-size 4, and at most 2 can share this candidate's linears in whole groups and "
        "heads. Use a smaller groupSize, another scheme or fewer cards."
    )
    assert world.overlay == INT8


def test_a_server_with_amx_gets_int4_only_if_it_is_told_to_keep_activations():
    amx = Ends(builders.inspected(isa="AMX"))
    world = World(script=script({(Stage.INSPECT, None): amx})).run()
    assert world.candidates["gptq-int4"] == "Unsupported EngineInexact"
    assert "VLLM_CPU_INT4_W4A8 with the value 0" in (world.status.candidates[1].message or "")
    assert world.overlay == INT8
    env = [{"name": "VLLM_CPU_INT4_W4A8", "value": "0"}]
    told = World(script=world.script, deployment=builders.deployment(container={"env": env})).run()
    assert (told.candidates["gptq-int4"], told.overlay) == ("Done Pass", GPTQ)


def test_a_candidate_that_may_be_raised_to_int8_needs_an_engine_that_runs_both():
    candidates = [dict(each) for each in builders.CANDIDATES]
    candidates[1]["escalate"] = {"maxBytesRatio": 0.8}
    without_vnni = Ends(builders.inspected(isa="AVX512"))
    world = World(spec=builders.spec(candidates=candidates), script=script({(Stage.INSPECT, None): without_vnni})).run()
    assert world.candidates["rtn-int4"].startswith("Done")
    assert world.candidates["gptq-int4"] == "Unsupported EngineInexact"
    assert "saturates" in (world.status.candidates[1].message or "")


def test_a_changed_limit_makes_only_the_escalated_candidate_anew():
    candidates = [dict(each) for each in builders.CANDIDATES]
    candidates[1]["escalate"] = {"maxBytesRatio": 0.8}
    world = World(spec=builders.spec(candidates=candidates, rollout=None)).run()
    before = {job.key for job in world.jobs.values() if job.stage is Stage.QUANTIZE}
    world.change(gates={"klDivergence": {"max": 0.11}})
    world.run()
    made = [job for job in world.jobs.values() if job.stage is Stage.QUANTIZE and job.key not in before]
    assert [job.candidate for job in made] == ["gptq-int4"]


def test_candidates_of_one_recipe_share_their_jobs():
    twins = [{"name": name, "method": "RTN", "scheme": "W8A8"} for name in ("int8", "int8-again")]
    sizes = Ends(builders.inspected(("int8", "int8-again")))
    world = World(
        spec=builders.spec(rollout=None, candidates=twins, job={"parallelism": 4}),
        script=script({(Stage.INSPECT, None): sizes}),
    ).run()
    assert world.candidates == {"int8": "Done Pass", "int8-again": "Done Pass"}
    assert [job.candidate for job in world.jobs.values() if job.stage is Stage.QUANTIZE] == ["int8"]


def test_when_none_passes_the_figures_are_told():
    world = World(divergences=dict.fromkeys(("rtn-int4", "gptq-int4", "int8"), 0.5)).run()
    assert world.ready == ("False", "NoCandidatePassed")
    assert "rtn-int4: Fail, klDivergence 0.5 [0.49, 0.51] against 0.1" in world.message
    assert "spec.gates" in world.message
    assert world.condition("GatesPassed") == "False"


def test_when_the_data_do_not_suffice_the_conversations_needed_are_told():
    world = World(divergences={"rtn-int4": 0.5, "gptq-int4": 0.095, "int8": 0.105}).run()
    assert world.ready == ("False", "Inconclusive")
    assert "about 256 conversations" in world.message


def test_looser_gates_are_judged_again_without_a_job():
    world = World(divergences=dict.fromkeys(("rtn-int4", "gptq-int4", "int8"), 0.5)).run()
    before, run = set(world.jobs), world.run_id
    world.change(gates={"klDivergence": {"max": 1.0}})
    world.run()
    assert (world.ready, set(world.jobs), world.run_id) == (("True", "Promoted"), before, run)
