"""Any state, also one that no history leads to: `decide` has an answer, which keeps the rules and comes to rest.

A status may have been written by an earlier version, edited by hand or lost in parts, and the objects beside it are
others' to change.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from deciding import builders
from deciding.lint import lint
from deciding.world import World
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from saffron_api.quantized_model import PromotedStatus, QuantizedModelStatus, RejectedStatus, RolloutStatus
from saffron_operator import names
from saffron_operator import target as targets
from saffron_operator.decide import decide
from saffron_operator.decision import ApplyCanary, ApplyOverlay, Decision, DeleteCanary, RemoveOverlay
from saffron_operator.observed import (
    CanaryObserved,
    Holder,
    JobObserved,
    JobPhase,
    Memory,
    Observed,
    Overlay,
    SpecError,
    TargetFacts,
    TargetObserved,
    TargetProblem,
    Waiting,
)

Of = TypeVar("Of")

DONE = World().run()
"""Where a run has ended well: its Jobs and its status are what states are made of."""
FACTS = targets.read(builders.deployment(), container="server", model_uri="pvc://models/qwen")
MANAGER = names.overlay_manager(builders.UID)
PASSES_TO_REST = 12

moments = st.sampled_from([-7200, -600, -10, 0, 10, 3600]).map(lambda s: builders.START + timedelta(seconds=s))
digests = st.sampled_from([builders.hexadecimal(f"checkpoint of {name}") for name in ("rtn-int4", "gptq-int4", "x")])
runs = st.sampled_from([DONE.run_id, "00000000-1", f"{DONE.run_id}.2"])
candidates = st.sampled_from(["rtn-int4", "gptq-int4", "gone"])


def made(kind: Callable[..., Of], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Of]:
    """Objects whose fields are drawn; pydantic's are built by names that Hypothesis would not guess."""
    return st.fixed_dictionaries(fields).map(lambda drawn: kind(**drawn))


def seldom(odd: st.SearchStrategy[Of], usual: st.SearchStrategy[Of]) -> st.SearchStrategy[Of]:
    # Hypothesis likes the ends of a range best.
    return st.integers(0, 9).flatmap(lambda number: odd if number == 5 else usual)


rollouts = made(
    RolloutStatus,
    target_uid=st.sampled_from([builders.TARGET_UID, "another"]),
    container=st.just("server"),
    model_path=st.just("/models/qwen"),
    run_id=runs,
    candidate=candidates,
    checkpoint_digest=digests,
    step=st.integers(0, 16),
    step_entered_at=moments,
    step_started_at=st.none() | moments,
    step_losses=st.sampled_from([0, 1, 9, 10, 11]),
    desired_weight=st.sampled_from([10, 33, 50, 100]),
    actual_weight=st.just(0),
    previous_digest=st.none() | digests,
)
promoted = made(PromotedStatus, run_id=runs, candidate=candidates, checkpoint_digest=digests, at=moments)
rejected = made(
    RejectedStatus, checkpoint_digest=digests, reason=st.just("Aborted"), message=st.just("A person did."), at=moments
)
memories = made(
    Memory,
    run=st.sampled_from([None, DONE.status.run]),
    rollout=st.none() | rollouts,
    promoted=st.none() | promoted,
    rejected=st.lists(rejected, max_size=3).map(tuple),
    conditions=st.sampled_from([(), tuple(DONE.status.conditions)]),
)
canaries = made(
    CanaryObserved,
    name=st.just("qwen-saffron"),
    uid=st.just("canary"),
    owner_uid=seldom(st.sampled_from([None, "another"]), st.just(builders.UID)),
    replicas=st.integers(0, 3),
    total=st.integers(0, 3),
    ready=st.integers(0, 3),
    updated=st.integers(0, 3),
    current=st.booleans(),
    digest=digests | st.just(""),
    template_hash=st.sampled_from(["", FACTS.template_hash if isinstance(FACTS, TargetFacts) else ""]),
    deleting=st.booleans(),
    deadline_exceeded=st.booleans(),
    trouble=st.sampled_from([None, Waiting("CrashLoopBackOff", "back-off 10s", builders.START)]),
)


@st.composite
def facts(draw: st.DrawFn) -> TargetFacts | TargetProblem:
    managers = seldom(st.sampled_from([None, f"{MANAGER}-x"]), st.just(MANAGER))
    overlays = made(Overlay, run=runs, candidate=candidates, digest=digests, manager=managers)
    assert isinstance(FACTS, TargetFacts)
    found = replace(FACTS, overlay=draw(st.none() | overlays))
    odd: list[TargetFacts | TargetProblem] = [
        TargetProblem("TargetUnsupported", "containers[server].command: a shell hides the path; write a list."),
        replace(found, quantization="fp8"),
        replace(found, also_held=(Holder("volumes[saffron-checkpoint]", "argocd"),)),
        replace(found, accelerated=True),
    ]
    return draw(seldom(st.sampled_from(odd), st.just(found)))


found_targets = made(
    TargetObserved,
    name=st.just("qwen"),
    uid=st.just(builders.TARGET_UID),
    resource_version=st.just("1"),
    replicas=st.integers(0, 4),
    total=st.integers(0, 5),
    ready=st.integers(0, 5),
    updated=st.integers(0, 5),
    available=st.integers(0, 5),
    current=st.booleans(),
    facts=facts(),
    paused=st.booleans(),
    deadline_exceeded=st.booleans(),
    progressed_at=st.none() | moments,
    autoscaler=st.sampled_from([None, None, None, "HorizontalPodAutoscaler busy"]),
)


@st.composite
def jobs(draw: st.DrawFn) -> tuple[JobObserved, ...]:
    """Those of the run that ended well, of which some are gone and some are otherwise."""
    found = []
    for job in DONE.jobs.values():
        match draw(st.integers(0, 19)):
            case 11:
                continue
            case 12:
                phase = draw(st.sampled_from(list(JobPhase)))
                result = job.result if phase is JobPhase.SUCCEEDED and draw(st.booleans()) else None
                found.append(replace(job, phase=phase, result=result, kept=False, deleting=draw(st.booleans())))
            case _:
                found.append(job)
    return tuple(found)


@st.composite
def states(draw: st.DrawFn) -> Observed:
    steps = st.sampled_from([builders.ROLLOUT["steps"], [{"weight": 33}], [{"weight": w} for w in range(1, 17)]])
    rollout = draw(seldom(st.none(), steps.map(lambda drawn: dict(builders.ROLLOUT) | {"steps": drawn})))
    limit = draw(st.sampled_from([0.001, 0.1, 1.0]))
    spec = builders.spec(
        rollout=rollout, gates={"klDivergence": {"max": limit}}, suspend=draw(seldom(st.just(True), st.just(False)))
    )
    asked = draw(st.dictionaries(st.sampled_from([names.ABORT_ANNOTATION, names.RETRY_ANNOTATION]), runs))
    return Observed(
        meta=builders.meta(annotations=asked, generation=draw(st.integers(1, 2))),
        spec=draw(seldom(st.just(SpecError("spec.gates: what is that?")), st.just(spec))),
        memory=draw(memories),
        quantizer_image=builders.IMAGE,
        jobs=draw(jobs()),
        target=None if rollout is None else draw(seldom(st.none(), found_targets)),
        canary=None if rollout is None else draw(st.none() | canaries),
        claimant=draw(seldom(st.just("older"), st.none())),
        refused=draw(seldom(st.just("POST /jobs: 403 Forbidden: exceeded quota"), st.none())),
        attended=draw(st.sampled_from([timedelta(), timedelta(days=1)])),
    )


def digest_in(act: ApplyCanary | ApplyOverlay) -> str:
    annotations: dict[str, str] = act.manifest["spec"]["template"]["metadata"]["annotations"]
    return annotations[names.CHECKPOINT_ANNOTATION].rpartition("/")[2]


def check(observed: Observed, decision: Decision) -> None:
    """What holds of the answer to any state."""
    lint(decision, observed.meta.generation)
    status = decision.status
    assert status is not None, "only what is being deleted has none"
    assert QuantizedModelStatus.model_validate_json(status.model_dump_json(by_alias=True)) == status, "it can be read"
    refused = {entry.checkpoint_digest for entry in status.rejected}
    served = status.promoted.checkpoint_digest if status.promoted is not None else None
    going = status.rollout.checkpoint_digest if status.rollout is not None else None
    for act in decision.actions:
        match act:
            case ApplyCanary():
                assert act.exists == (observed.canary is not None), "a canary is not made twice"
                assert (digest_in(act), digest_in(act) in refused) == (going, False), "it is written down before"
            case ApplyOverlay():
                assert digest_in(act) == served or (digest_in(act) == going and going not in refused), "so is this"
            case DeleteCanary():
                assert observed.canary is not None
                assert (observed.canary.owner_uid, observed.canary.deleting) == (builders.UID, False), "only ours"
    kinds = {type(act) for act in decision.actions}
    assert not {ApplyOverlay, RemoveOverlay} <= kinds, "it mounts, or takes off"
    assert not {ApplyCanary, DeleteCanary} <= kinds, "it makes a canary, or removes it"


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(states(), moments)
def test_any_state_has_an_answer_that_comes_to_rest(observed: Observed, now: Any):
    """At rest: while nothing else changes, the memory of an answer leads to the same answer after a few passes."""
    decision = decide(observed, now)
    check(observed, decision)
    for _ in range(PASSES_TO_REST):
        assert decision.status is not None
        again = replace(observed, memory=Memory.of(decision.status))
        before, decision = decision.status, decide(again, now)
        check(again, decision)
        if decision.status == before:
            event(next(each.reason for each in before.conditions if each.type == "Ready"))
            return
    raise AssertionError("it never comes to rest")
