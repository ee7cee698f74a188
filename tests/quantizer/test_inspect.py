"""What `saffron inspect` foretells of candidates, and how it is told."""

import pytest
import torch

from saffron_api.candidate import CandidateSpec
from saffron_api.failures import Failure, FailureReason
from saffron_api.results import InspectResult, PredictedNeeds, PredictedSize
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.cli.inspect import told
from saffron_quantizer.inspect import Calibration, inspect_model
from saffron_quantizer.plan import make_plan
from saffron_quantizer.preflight import needs

GPTQ = CandidateSpec(method="GPTQ", scheme="W4A16", group_size=32)
RTN = CandidateSpec(method="RTN", scheme="W8A8")


@pytest.mark.parametrize(("spec", "samples"), [(GPTQ, 5), (RTN, 0)], ids=["GPTQ", "RTN, which reads nothing"])
def test_what_making_a_candidate_needs_is_what_the_preflight_will_find(tiny_model, spec, samples):
    model = tiny_model("Llama")
    (predicted,) = inspect_model(model, [("it", spec)], hash_cache=None, calibration=Calibration(5, 40)).predicted
    reader = CheckpointReader(model)
    found = needs(
        reader, make_plan(reader, spec), [torch.ones(40, dtype=torch.int64)] * samples, torch.float32, torch.float32
    )
    assert predicted.needs == PredictedNeeds(memory=found.memory, activations=found.activations, disk=found.checkpoint)
    assert predicted.tensor_parallel in {2, 4}


def test_an_escalated_candidate_has_two_of_its_largest_checkpoints_on_the_disk(tiny_model):
    model, limits = tiny_model("Llama", dtype=torch.bfloat16), {"maxBytesRatio": 0.9}
    plain = CandidateSpec(method="RTN", scheme="W4A16", group_size=32)
    raised = CandidateSpec(method="RTN", scheme="W4A16", group_size=32, escalate=limits)
    result = inspect_model(model, [("plain", plain), ("raised", raised)], hash_cache=None)
    one, other = result.predicted
    beside = one.needs.disk - one.bytes
    assert other.needs.disk == 2 * (int(0.9 * result.bytes) + beside)


NEEDS = PredictedNeeds(memory=1_200_000_000, activations=4_000_000_000, disk=345_000_000)
PREDICTED = {
    "all that is known": (
        PredictedSize(name="int4", bytes=343_000_000, gpu_capability=75, tensor_parallel=4, needs=NEEDS),
        [
            "int4          343.0 MB, 0.640, on GPUs from capability 7.5, on up to 4 together",
            "  to make it  1.2 GB of memory, 4.0 GB for activations, 345.0 MB on the disk",
        ],
    ),
    "one that no two cards can share, and that reads no data": (
        PredictedSize(
            name="int4",
            bytes=343_000_000,
            gpu_capability=75,
            tensor_parallel=1,
            needs=NEEDS.model_copy(update={"activations": 0}),
        ),
        [
            "int4          343.0 MB, 0.640, on GPUs from capability 7.5, on one alone",
            "  to make it  1.2 GB of memory, 345.0 MB on the disk",
        ],
    ),
    "one of which only the size is known": (
        PredictedSize(name="int4", bytes=343_000_000),
        ["int4          343.0 MB, 0.640"],
    ),
    "one that can not be made": (
        PredictedSize(name="int4", failure=Failure(reason=FailureReason.IGNORE_ALL)),
        ["int4          ignore names every linear of the model, which leaves nothing to quantize; name fewer."],
    ),
}


@pytest.mark.parametrize(("predicted", "expected"), PREDICTED.values(), ids=PREDICTED)
def test_the_command_says_of(predicted, expected):
    result = InspectResult(
        model_digest="a" * 64,
        architecture="LlamaForCausalLM",
        parameters=268_000_000,
        bytes=536_000_000,
        predicted=[predicted],
        isa="AVX2",
    )
    assert told(result).splitlines()[5:] == expected
