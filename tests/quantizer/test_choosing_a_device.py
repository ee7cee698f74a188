"""Which device computes: one that can't is refused before anything is read, and what is told says why.

Cards are torch's words here, for machines without one.
"""

import pytest
import torch

from saffron_api.candidate import CandidateSpec
from saffron_api.failures import FailureReason, StageError
from saffron_api.results import FailureResult, decode
from saffron_kernels.triton_driver import NoDriverError
from saffron_quantizer.cli.main import build_parser
from saffron_quantizer.destination import OwnFolder
from saffron_quantizer.device import device_named, require_fp8
from saffron_quantizer.models.compute import CPU
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.progress import ignore
from saffron_quantizer.quantize import quantize
from saffron_quantizer.quantize_request import QuantizeRequest


@pytest.fixture
def cards(monkeypatch):
    """Let torch find some cards of a compute capability; those that are made current are listed."""

    def found(count, capability=(9, 0)):
        current = []
        monkeypatch.setattr("torch.cuda.is_available", lambda: count > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: count)
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: capability)
        monkeypatch.setattr("torch.cuda.set_device", current.append)
        return current

    return found


def test_the_cpu_asks_nothing_of_cards(cards):
    cards(0)
    assert device_named("cpu", {"LOCAL_RANK": "3"}) == CPU


@pytest.mark.parametrize(("environment", "number"), [({}, 0), ({"LOCAL_RANK": "3"}, 3), ({"RANK": "3"}, 0)])
def test_each_process_on_a_machine_takes_the_card_of_its_local_rank(environment, number, cards, monkeypatch):
    current = cards(4)
    monkeypatch.setattr("saffron_kernels.triton_driver.load_driver", lambda: None)
    assert device_named("cuda", environment) == torch.device("cuda", number)
    assert current == [torch.device("cuda", number)]


UNUSABLE = {
    "there is none": ((0,), {}, "no-GPU-found", "torch finds none"),
    "there are too few": (
        (2,),
        {"LOCAL_RANK": "2"},
        "GPUs=2,LOCAL_RANK=2",
        "each process on a machine needs a GPU of its own",
    ),
    "it is too old": (
        (1, (7, 5)),
        {},
        "compute-capability=7.5,least=8.0",
        "Triton compiles for none that is older",
    ),
}


@pytest.mark.parametrize(("there", "environment", "subject", "why"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_card_is_refused_where(there, environment, subject, why, cards):
    cards(*there)
    with pytest.raises(StageError) as caught:
        device_named("cuda", environment)
    failure = caught.value.failure
    assert (failure.reason, failure.subject, caught.value.detail) == (FailureReason.GPU_UNUSABLE, subject, why)


def test_a_card_is_refused_where_triton_can_not_start_kernels(cards, monkeypatch):
    def fail():
        raise NoDriverError("there is no compiler")

    cards(1)
    monkeypatch.setattr("saffron_kernels.triton_driver.load_driver", fail)
    with pytest.raises(StageError) as caught:
        device_named("cuda", {})
    assert (caught.value.failure.subject, caught.value.detail) == ("Triton", "there is no compiler")


def test_a_card_without_fp8_does_not_compute_with_it(cards):
    cards(1, (8, 0))
    require_fp8(CPU)
    with pytest.raises(StageError) as caught:
        require_fp8(torch.device("cuda", 0))
    assert caught.value.failure.subject == "compute-capability=8.0,least=8.9"
    cards(1, (8, 9))
    require_fp8(torch.device("cuda", 0))


def test_an_fp8_checkpoint_is_not_opened_on_a_card_without_fp8(cards, tiny_model, tmp_path):
    request = QuantizeRequest(tiny_model(), CandidateSpec(method="RTN", scheme="FP8"), None, model_digest="0" * 64)
    quantize(request, OwnFolder(tmp_path), ignore)
    cards(1, (8, 6))
    with pytest.raises(StageError) as caught:
        ModelStream.open(tmp_path, device=torch.device("cuda", 0))
    assert caught.value.failure.subject == "compute-capability=8.6,least=8.9"


COMMANDS = {
    "quantize": ["quantize", "--model", "m", "--method", "rtn", "--scheme", "w8a8", "--out", "o"],
    "baseline": ["baseline", "--model", "m", "--data", "d", "--out", "o"],
    "evaluate": ["evaluate", "--original", "m", "--candidate", "c", "--data", "d"],
}


TO_DO = (
    "check the node's driver and the pod's runtimeClassName, or compute on the CPU: leave nvidia.com/gpu out of the "
    "limits in spec.job, or say --device cpu"
)


@pytest.mark.parametrize("argv", COMMANDS.values(), ids=COMMANDS)
def test_a_command_refuses_it_before_anything_is_read_and_leaves_the_reason(argv, cards, tmp_path, capsys, monkeypatch):
    cards(0)
    monkeypatch.chdir(tmp_path)
    # Neither model nor data are there, which would be told otherwise; nor do other processes come.
    monkeypatch.setenv("WORLD_SIZE", "2")
    arguments = build_parser().parse_args([*argv, "--device", "cuda", "--result", "r.json"])
    assert arguments.run(arguments) == 16
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    told = decode((tmp_path / "r.json").read_text())
    assert isinstance(told, FailureResult)
    assert told.failure.reason is FailureReason.GPU_UNUSABLE
    assert capsys.readouterr().err.splitlines() == [
        "error: There is no GPU here that can be used (no-GPU-found).",
        "  why: torch finds none.",
        f"  what to do: {TO_DO}.",
    ]
