"""Processes that quantize together make the checkpoint that one makes alone."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from saffron_api.failures import FailureReason, StageError
from saffron_quantizer.checkpoint.manifest import read_manifest
from saffron_quantizer.ranks import ALONE, Ranks, joined

CHILD = """
import json, os, sys, torch
from pathlib import Path
from saffron_api.candidate import CandidateSpec
from saffron_api.failures import StageError
from saffron_quantizer.progress import ignore
from saffron_quantizer.quantize import quantize
from saffron_quantizer.ranks import joined

model, place, told, lengths = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
generator = torch.Generator().manual_seed(3)
sequences = [torch.randint(3, 97, (length,), generator=generator) for length in lengths]
with joined(os.environ) as ranks:
    if told == "different":
        sequences = sequences[ranks.rank:]
    shared = {"model_digest": None, "data_digest": None, "progress": ignore, "activation_memory": 0}
    spec = CandidateSpec(method="GPTQ", scheme="W4A16", group_size=32)
    try:
        result = quantize(model=model, sequences=sequences, spec=spec, store=place / "store", out=None,
                          work=place / "work", ranks=ranks, **shared)
        print(result.checkpoint_digest)
    except StageError as error:
        print(error.failure.reason)
"""


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def run(model, place, *, size, lengths=(24, 23, 22, 21, 20, 7), told="same"):
    """What each rank printed."""
    place.mkdir(exist_ok=True)
    together = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    children = []
    for rank in range(size):
        # As torchrun tells the first, and as an Indexed Job tells the others.
        number = {"RANK" if rank == 0 else "JOB_COMPLETION_INDEX": str(rank)}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **together, **number}
        command = [sys.executable, "-c", CHILD, model, place, told, json.dumps(lengths)]
        children.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    return [child.communicate(timeout=300)[0].strip() for child in children]


def tensors(folder):
    found = {}
    for shard in folder.glob("*.safetensors"):
        found |= load_file(shard)
    return found


@pytest.fixture
def model(tiny_model):
    return tiny_model("Qwen3", dtype=torch.float32)


@pytest.mark.timeout(600)
def test_two_processes_make_the_checkpoint_that_one_makes(model, tmp_path):
    (alone,) = run(model, tmp_path / "one", size=1)
    assert alone
    first, second = run(model, tmp_path / "two", size=2)
    assert first == second
    folders = [tmp_path / "one" / "store" / alone, tmp_path / "two" / "store" / first]
    one, two = map(tensors, folders)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        if name.endswith("packed"):
            # Sums of other parts round otherwise, so a weight that lies half way between two codes may get the other.
            assert (tensor != two[name]).float().mean() < 0.02, name
        else:
            torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5)
    sizes = [read_manifest(folder)["fingerprint"]["machine"]["worldSize"] for folder in folders]
    assert sizes == [1, 2]
    assert sorted(path.name for path in (tmp_path / "two" / "store").iterdir()) == [first]
    assert run(model, tmp_path / "two", size=2) == [first, first]  # only reported


@pytest.mark.timeout(600)
def test_processes_with_different_inputs_are_refused(model, tmp_path):
    assert run(model, tmp_path / "different", size=2, told="different") == [FailureReason.RANKS_DIFFER] * 2
    assert not (tmp_path / "different" / "store").exists()


@pytest.mark.timeout(600)
def test_a_process_may_have_no_sequence_to_run(model, tmp_path):
    first, second = run(model, tmp_path / "few", size=2, lengths=(40,))
    assert first == second
    assert (tmp_path / "few" / "store" / first / "manifest.json").exists()


def test_each_sequence_is_in_one_share_and_shares_are_alike():
    given = [torch.full((length,), length) for length in (3, 50, 7, 50, 20, 9, 1)]
    shares = [Ranks(rank, 3).share(given) for rank in range(3)]
    assert [[len(sequence) for sequence in share] for share in shares] == [[50, 9, 1], [50, 7], [20, 3]]


def test_one_process_shares_nothing_and_asks_nobody():
    tensor = torch.ones(3)
    assert ALONE.sum(tensor) is tensor
    assert ALONE.from_first(lambda: {"a": 1}) == {"a": 1}
    ALONE.require_same("it", pytest.fail)


ENVIRONMENTS = {
    "none": ({}, None),
    "an Indexed Job without a world": ({"JOB_COMPLETION_INDEX": "3"}, None),
    "a world of one": ({"WORLD_SIZE": "1", "RANK": "0"}, None),
    "no rank": ({"WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "JOB_COMPLETION_INDEX"),
    "a rank beyond the world": ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a"}, "RANK"),
    "no address": ({"WORLD_SIZE": "2", "RANK": "1"}, "MASTER_ADDR"),
    "a port that is none": ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "-1"}, "MASTER_PORT"),
    "a size that is none": ({"WORLD_SIZE": "two"}, "WORLD_SIZE"),
}


@pytest.mark.parametrize(("environment", "wrong"), ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_an_environment_is_one_process_or_says_what_is_wrong(environment, wrong):
    if wrong is None:
        with joined(environment) as ranks:
            assert ranks is ALONE
        return
    with pytest.raises(StageError) as caught, joined(environment):
        pass
    assert (caught.value.failure.reason, caught.value.failure.subject) == (FailureReason.SPEC_INVALID, wrong)
