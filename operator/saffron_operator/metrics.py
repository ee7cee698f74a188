"""What Prometheus sees. Figures come from the status decided last, so a deleted resource leaves no series."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from saffron_api.quantized_model import CandidateStatus, QuantizedModelStatus, Verdict
from saffron_operator.queue import Key
from saffron_operator.watches import WatchAges

_RESOURCE = ("namespace", "quantizedmodel")
_CANDIDATE = (*_RESOURCE, "candidate")


@dataclass(frozen=True)
class StageSeconds:
    """How long one Job took, from its start to its end, which is told as Kubernetes writes it."""

    stage: str
    candidate: str
    seconds: float
    ended: str


class Metrics:
    """The operator's metrics, in a registry of its own."""

    def __init__(self, ages: WatchAges) -> None:
        self.registry = CollectorRegistry()
        self.reconcile_seconds = Histogram(
            "saffron_reconcile_seconds", "Duration of one pass over a QuantizedModel.", registry=self.registry
        )
        self.reconcile_errors = Counter(
            "saffron_reconcile_errors", "Passes that ended with an error.", ["kind"], registry=self.registry
        )
        self.leader = Gauge("saffron_leader", "1 while this replica is the one that writes.", registry=self.registry)
        self._models = _Models()
        self.registry.register(self._models)
        self.registry.register(_Watches(ages))

    def show(self, key: Key, status: QuantizedModelStatus, stages: tuple[StageSeconds, ...]) -> None:
        """Show this of a QuantizedModel from now on."""
        self._models.shown[key] = (status, stages)

    def forget(self, key: Key) -> None:
        """Show nothing of a QuantizedModel that is gone."""
        self._models.shown.pop(key, None)


class _Watches(Collector):
    def __init__(self, ages: WatchAges) -> None:
        self._ages = ages

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "saffron_watch_age_seconds", "Time since a watch was last known to be alive.", labels=["path"]
        )
        for path, age in self._ages.ages().items():
            family.add_metric([path], age)
        yield family


class _Models(Collector):
    def __init__(self) -> None:
        self.shown: dict[Key, tuple[QuantizedModelStatus, tuple[StageSeconds, ...]]] = {}

    def collect(self) -> Iterable[Metric]:
        families = _families()
        for key, (status, stages) in dict(self.shown).items():
            for candidate in status.candidates:
                _add_candidate(families, key, candidate)
            _add_rollout(families, key, status)
            by_end = sorted(stages, key=lambda stage: stage.ended)
            # More than one Job may have done a stage; a series that comes twice spoils a scrape.
            for labels, seconds in {(each.candidate, each.stage): each.seconds for each in by_end}.items():
                families["stage"].add_metric([*key, *labels], seconds)
        yield from families.values()


def _families() -> Mapping[str, GaugeMetricFamily]:
    def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"saffron_{name}", text, labels=labels)

    return {
        "value": gauge("gate_value", "A figure of a candidate.", *_CANDIDATE, "gate"),
        "lower": gauge("gate_lower_bound", "Its lower confidence bound.", *_CANDIDATE, "gate"),
        "upper": gauge("gate_upper_bound", "Its upper confidence bound.", *_CANDIDATE, "gate"),
        "limit": gauge("gate_limit", "What its bound must keep.", *_CANDIDATE, "gate"),
        "verdict": gauge("candidate_verdict", "1 for the verdict on a candidate.", *_CANDIDATE, "verdict"),
        "weight": gauge("rollout_weight_percent", "The canary's share of the pods.", *_RESOURCE, "kind"),
        "step": gauge("rollout_step", "The step in force, from 0.", *_RESOURCE),
        "stage": gauge("stage_duration_seconds", "What a finished Job took.", *_CANDIDATE, "stage"),
        "condition": gauge("condition", "1 for the state of a condition.", *_RESOURCE, "type", "status", "reason"),
    }


def _add_candidate(families: Mapping[str, GaugeMetricFamily], key: Key, candidate: CandidateStatus) -> None:
    labels = [*key, candidate.name]
    for verdict in Verdict:
        if candidate.verdict is not None:
            families["verdict"].add_metric([*labels, verdict], float(candidate.verdict is verdict))
    for figure in candidate.figures:
        families["value"].add_metric([*labels, figure.name], figure.value)
        families["lower"].add_metric([*labels, figure.name], figure.lower)
        families["upper"].add_metric([*labels, figure.name], figure.upper)
        if figure.limit is not None:
            families["limit"].add_metric([*labels, figure.name], figure.limit)


def _add_rollout(families: Mapping[str, GaugeMetricFamily], key: Key, status: QuantizedModelStatus) -> None:
    for condition in status.conditions:
        families["condition"].add_metric([*key, condition.type, condition.status, condition.reason], 1)
    if status.rollout is not None:
        families["weight"].add_metric([*key, "desired"], status.rollout.desired_weight)
        families["weight"].add_metric([*key, "actual"], status.rollout.actual_weight)
        families["step"].add_metric([*key], status.rollout.step)
