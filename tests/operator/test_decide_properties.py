"""Whatever happens and in whatever order, `decide` comes to rest, keeps the rules, and a kill changes nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from deciding import builders
from deciding.world import Ends, Fails, Hangs, Outcome, World
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from saffron_api.failures import FailureReason
from saffron_api.quantized_model import QuantizedModelSpec, QuantizedModelStatus, Verdict
from saffron_api.results import Stage
from saffron_operator.decide.scene import PROMOTION_WEIGHT
from saffron_operator.decision import ApplyOverlay, CreateJob
from saffron_operator.observed import CanaryObserved, JobFailure, JobPhase, SpecError

MOST_AT_A_TIME = 3
NAMES = tuple(each["name"] for each in builders.CANDIDATES)

# --- what becomes of Jobs ----------------------------------------------------------------------------------------

BAD: tuple[Outcome, ...] = (
    Fails(builders.failure(Stage.QUANTIZE, FailureReason.STORAGE_FULL, subject="/mnt", need=2, have=1)),
    Fails(out_of_memory=True),
    Fails(),
    Ends(None),
    Hangs("ImagePullBackOff"),
    Hangs("CreateContainerConfigError"),
)


@st.composite
def scripts(draw: st.DrawFn) -> Mapping[tuple[Stage, str | None], Outcome]:
    """Outcomes of some Jobs; the rest goes as usual."""
    places = [(stage, None) for stage in (Stage.INSPECT, Stage.SAMPLE, Stage.BASELINE)]
    places += [(stage, name) for stage in (Stage.QUANTIZE, Stage.EVALUATE) for name in NAMES]
    chosen = draw(st.lists(st.sampled_from(places), max_size=3, unique=True))
    return {place: draw(st.sampled_from(BAD)) for place in chosen}


@dataclass(frozen=True)
class Setting:
    """What a world starts with."""

    script: Mapping[tuple[Stage, str | None], Outcome]
    divergences: Mapping[str, float]
    canary_gets_ready: bool
    target_gets_ready: bool
    parallelism: int
    changes: Mapping[str, Any] = field(default_factory=dict)

    def world(self) -> World:
        script = dict(self.script)
        return World(
            spec=builders.spec(job={"parallelism": self.parallelism}, **self.changes),
            script=lambda stage, candidate, _: script.get((stage, candidate)),
            divergences=self.divergences,
            canary_gets_ready=self.canary_gets_ready,
            target_gets_ready=self.target_gets_ready,
        )


@st.composite
def worlds(draw: st.DrawFn) -> Setting:
    """Settings of which about half come to a promotion."""
    changes: dict[str, Any] = {}
    if draw(st.booleans()):
        changes["gates"] = {
            "klDivergence": {"max": 0.1},
            "checkpointBytesRatio": {"max": draw(st.sampled_from([0.4, 0.6]))},
        }
    if draw(st.integers(0, 3)) == 0:
        changes["rollout"] = None
    return Setting(
        script=draw(st.one_of(st.just({}), scripts())),
        divergences={name: draw(st.sampled_from([0.02, 0.05, 0.095, 0.5])) for name in NAMES},
        canary_gets_ready=draw(st.integers(0, 3)) > 0,
        target_gets_ready=draw(st.integers(0, 3)) > 0,
        parallelism=draw(st.integers(1, MOST_AT_A_TIME)),
        changes=changes,
    )


# --- what people and machines do meanwhile -----------------------------------------------------------------------


def _annotate(name: str) -> Callable[[World], None]:
    def act(world: World) -> None:
        if world.status.run is not None:
            world.annotations[f"saffron.dev/{name}"] = world.run_id

    return act


def _approve(world: World) -> None:
    rollout = world.status.rollout
    if rollout is not None:
        approval = f"{world.run_id}/{rollout.checkpoint_digest}/{rollout.desired_weight}"
        world.annotations["saffron.dev/promote"] = approval


def _respec(**changes: Any) -> Callable[[World], None]:
    def act(world: World) -> None:
        if isinstance(world.spec, SpecError):
            world.change(**({"job": {"parallelism": MOST_AT_A_TIME}} | changes))
            return
        kept = {"job": {"parallelism": world.spec.job.parallelism}}
        world.change(**(kept | changes | ({"rollout": None} if world.spec.rollout is None else {})))

    return act


def _steps(*steps: Mapping[str, Any]) -> Callable[[World], None]:
    return _respec(rollout=dict(builders.ROLLOUT) | {"steps": list(steps)})


def _break_spec(world: World) -> None:
    world.spec = SpecError("spec.gates: what is that?")
    world.generation += 1


def _lose_status(world: World) -> None:
    world.status = QuantizedModelStatus()


def _forget_jobs(world: World) -> None:
    world.jobs = {name: job for name, job in world.jobs.items() if job.stage is Stage.INSPECT}


def _new_template(world: World) -> None:
    if world.deployment is not None:
        world.deployment["spec"]["template"]["spec"]["containers"][0]["image"] += "1"
        world._rolls()


def _take_off(world: World) -> None:
    if world.overlay is not None:
        world.unmount()


def _remove_canary(world: World) -> None:
    world.canary = None


def _flap(world: World) -> None:
    world.canary_gets_ready = not world.canary_gets_ready


def _an_hour(world: World) -> None:
    world.now += timedelta(hours=1)


def _two_hours_away(world: World) -> None:
    world.now += timedelta(hours=2)
    world.attending_since = world.now


def _remake_target(world: World) -> None:
    world.deployment = builders.deployment()
    world.deployment["metadata"]["uid"] = f"remade at {world.now} {len(world.acts)}"
    world.rolling_since = None


def _scale(pods: int) -> Callable[[World], None]:
    def act(world: World) -> None:
        if world.deployment is not None:
            world.deployment["spec"]["replicas"] = world.target_ready = pods

    return act


def _ready(pods: int) -> Callable[[World], None]:
    def act(world: World) -> None:
        if world.deployment is not None:
            world.target_ready = min(pods, world.deployment["spec"]["replicas"])

    return act


def _pause(paused: bool) -> Callable[[World], None]:  # noqa: FBT001 - it is the field's value
    def act(world: World) -> None:
        if world.deployment is not None:
            world.deployment["spec"]["paused"] = paused

    return act


def _command(*words: str) -> Callable[[World], None]:
    def act(world: World) -> None:
        if world.deployment is not None:
            world.deployment["spec"]["template"]["spec"]["containers"][0]["command"] = list(words)

    return act


def _remove_target(world: World) -> None:
    world.deployment = world.rolling_since = None


def _put(**fields: Any) -> Callable[[World], None]:
    def act(world: World) -> None:
        for name, value in fields.items():
            setattr(world, name, value)

    return act


def _take_canarys_name(world: World) -> None:
    if world.canary is None:
        world.canary = CanaryObserved("qwen-saffron", "foreign", None, 1, 1, 1, 1, True, "", "")


def _free_canarys_name(world: World) -> None:
    if is_foreign(world.canary):
        world.canary = None


def _fail_jobs(world: World) -> None:
    failed = {"phase": JobPhase.FAILED, "failure": JobFailure("DeadlineExceeded", "it took too long")}
    over = {JobPhase.SUCCEEDED, JobPhase.FAILED}
    world.jobs = {
        name: job if job.phase in over or job.stage is None else replace(job, **failed)
        for name, job in world.jobs.items()
    }


def is_foreign(canary: CanaryObserved | None) -> bool:
    return canary is not None and canary.owner_uid is None


HAPPENINGS: Mapping[str, Callable[[World], None]] = {
    "approve": _approve,
    "abort": _annotate("abort"),
    "retry": _annotate("retry"),
    "new seed": _respec(data={"source": {"dataset": {"uri": "pvc://data/prompts.jsonl"}}, "seed": 1}),
    "other candidates": _respec(candidates=[{"name": "int8", "method": "RTN", "scheme": "W8A8"}]),
    "best quality": _respec(selection="BestQuality"),
    "looser gates": _respec(gates={"klDivergence": {"max": 1.0}}),
    "suspend": _respec(suspend=True),
    "resume": _respec(),
    "status lost": _lose_status,
    "Jobs removed": _forget_jobs,
    "new template": _new_template,
    "overlay taken off": _take_off,
    "canary removed": _remove_canary,
    "canary flaps": _flap,
    "an hour passes": _an_hour,
    "operator away": _two_hours_away,
    "target made anew": _remake_target,
    "target removed": _remove_target,
    "target scaled to none": _scale(0),
    "target scaled down": _scale(2),
    "target lost pods": _ready(1),
    "target lost all pods": _ready(0),
    "target paused": _pause(True),
    "target resumed": _pause(False),
    "target in a shell": _command("sh", "-c", "vllm serve /models/qwen"),
    "target as a list": _command("vllm", "serve", "/models/qwen"),
    "target's pods hang": _put(target_gets_ready=False),
    "target's pods get ready": _put(target_gets_ready=True, target_ready=4),
    "autoscaler made": _put(autoscaler="HorizontalPodAutoscaler busy"),
    "autoscaler removed": _put(autoscaler=None),
    "claimed": _put(claimant="older"),
    "free": _put(claimant=None),
    "canary's name taken": _take_canarys_name,
    "canary's name free": _free_canarys_name,
    "one step": _steps({"weight": 33}),
    "a step that is approved": _steps({"weight": 10}, {"weight": 50, "approval": "Required"}),
    "fewer extra pods": _respec(rollout=dict(builders.ROLLOUT) | {"maxExtraReplicas": 1}),
    "spec unreadable": _break_spec,
    "Jobs fail": _fail_jobs,
}

histories = st.lists(st.tuples(st.integers(0, 12), st.sampled_from(sorted(HAPPENINGS)), st.integers(0, 3)), max_size=6)
CAREFUL = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def advance(world: World, passes: int) -> None:
    """Do some passes, letting the cluster move and the time go on as asked for."""
    for _ in range(passes):
        decision = world.step()
        check(world)
        if not world.move() and not decision.actions and decision.requeue_after is not None:
            world.now += timedelta(seconds=max(1.0, decision.requeue_after))


def check(world: World) -> None:
    """What holds after every pass."""
    active = [job for job in world.jobs.values() if job.phase.value in {"Queued", "Running"} and not job.deleting]
    if isinstance(world.spec, QuantizedModelSpec):
        assert len(active) <= world.spec.job.parallelism, "no more Jobs at a time than asked for"
    passed = {
        each.checkpoint_digest for status in world.written for each in status.candidates if each.verdict is Verdict.PASS
    }
    assert world.overlay is None or world.overlay in passed, "only what passed is served"
    canary = world.canary
    assert canary is None or is_foreign(canary) or canary.digest in passed, "nor by a canary"


@CAREFUL
@given(worlds(), histories)
def test_whatever_happens_it_comes_to_rest(setting: Setting, history: list[tuple[int, str, int]]):
    world = setting.world()
    for passes, happening, killed_after in history:
        advance(world, passes)
        HAPPENINGS[happening](world)
        world.step(killed_after=killed_after)
    world.run()
    check(world)
    event(f"{world.ready[0]} {world.ready[1]}")
    still = world.step()
    assert (still.actions, still.status) == ((), world.written[-2]), "at rest it writes and does nothing"
    if isinstance(world.spec, SpecError) or world.spec.suspend:
        return  # all is as it was, whatever became of the target
    if world.ready == ("True", "Promoted"):
        assert world.status.promoted is not None
        assert world.overlay == world.status.promoted.checkpoint_digest
    assert world.canary is None or is_foreign(world.canary) or _has_reason_to_stay(world), "nothing is left beside it"


def _has_reason_to_stay(world: World) -> bool:
    """Whether a person is waited for, or a promotion is half done on a target that can't be worked with."""
    rollout = world.status.rollout
    return world.ready[1] == "AwaitingApproval" or (rollout is not None and rollout.desired_weight == PROMOTION_WEIGHT)


def summary(world: World) -> Mapping[str, object]:
    """What counts of the end of a run."""
    status = world.status
    return {
        "ready": world.ready,
        "conditions": [(each.type, each.status, each.reason) for each in status.conditions],
        "candidates": world.candidates,
        "selected": status.selected,
        "promoted": status.promoted and status.promoted.checkpoint_digest,
        "rejected": [(each.checkpoint_digest, each.reason) for each in status.rejected],
        "overlay": world.overlay,
        "jobs": sorted(world.jobs),
        "canary": world.canary is None,
    }


@CAREFUL
@given(worlds(), st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4)), min_size=1, max_size=8))
def test_a_kill_between_the_status_and_any_act_changes_nothing(setting: Setting, kills: list[tuple[int, int]]):
    undisturbed, killed = setting.world().run(), setting.world()
    event(f"{undisturbed.ready[0]} {undisturbed.ready[1]}")
    for passes, killed_after in kills:
        advance(killed, passes)
        killed.step(killed_after=killed_after)
    killed.run()
    assert summary(killed) == summary(undisturbed)


@CAREFUL
@given(worlds(), st.integers(0, 40))
def test_a_lost_status_ends_where_it_would_have_ended(setting: Setting, passes: int):
    undisturbed, lost = setting.world().run(), setting.world()
    advance(lost, passes)
    lost.status = QuantizedModelStatus()
    lost.run()
    same = ("candidates", "selected", "promoted", "overlay", "jobs", "canary")
    assert {name: summary(lost)[name] for name in same} == {name: summary(undisturbed)[name] for name in same}


def test_jobs_are_created_by_their_keys_and_only_once():
    world = World().run()
    created = [action.name for action in world.acts if isinstance(action, CreateJob)]
    assert len(created) == len(set(created)) == 9
    assert sum(isinstance(action, ApplyOverlay) for action in world.acts) == 1
