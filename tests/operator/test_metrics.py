"""What Prometheus gets to see: no series twice."""

from collections import Counter

from saffron_api.quantized_model import QuantizedModelStatus
from saffron_operator.metrics import Metrics, StageSeconds
from saffron_operator.queue import Key
from saffron_operator.watches import WatchAges


def test_of_two_jobs_of_a_stage_the_one_that_ended_last_is_shown():
    """They stand side by side while the one of an earlier plan is being removed, or where somebody copied one."""
    metrics = Metrics(WatchAges(frozenset()))
    stages = (
        StageSeconds("quantize", "rtn", 60.0, ended="2026-01-01T11:00:00Z"),
        StageSeconds("quantize", "rtn", 50.0, ended="2026-01-01T10:00:00Z"),
        StageSeconds("inspect", "", 5.0, ended="2026-01-01T09:00:00Z"),
    )
    metrics.show(Key("serving", "qwen"), QuantizedModelStatus(), stages)
    samples = [
        (sample.labels["stage"], sample.value)
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "saffron_stage_duration_seconds"
    ]
    assert Counter(samples) == {("quantize", 60.0): 1, ("inspect", 5.0): 1}
