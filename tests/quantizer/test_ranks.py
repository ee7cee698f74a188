"""Processes that quantize together make the checkpoint that one makes alone."""

import json
import os
import socket
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saffron_api.failures import FailureReason, StageError
from saffron_api.results import decode
from saffron_quantizer.atomic import private_folder
from saffron_quantizer.checkpoint.manifest import read_manifest
from saffron_quantizer.ranks import ALONE, Ranks, joined

LENGTHS = (24, 23, 22, 21, 20, 7)


def free_port():
    """One that nobody listens at."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def write_calibration(path, lengths):
    generator = torch.Generator().manual_seed(3)
    lines = [torch.randint(3, 97, (length,), generator=generator).tolist() for length in lengths]
    sampled = [
        {"tokens": line, "score": [1, len(line)], "conversation": str(number)} for number, line in enumerate(lines)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in sampled))
    return path


def by_torchrun():
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return lambda size, rank: {"WORLD_SIZE": str(size), "RANK": str(rank), **together}


def by_indexed_job(size, rank):
    return {"WORLD_SIZE": str(size), "JOB_COMPLETION_INDEX": str(rank), "POD_IP": "127.0.0.1"}


def run(servers, model, place, *lengths, started=by_indexed_job):
    """The result of each rank, each given sequences of such lengths."""
    place.mkdir(exist_ok=True)
    for rank, server in enumerate(servers):
        data = write_calibration(place / f"{rank}.jsonl", lengths[rank % len(lengths)])
        what = ("--method", "gptq", "--scheme", "w4a16", "--group-size", 32, "--activation-memory", 0)
        places = ("--store", place / "store", "--work", place / "work", "--result", place / f"{rank}.json")
        argv = ["quantize", "--model", model, "--calibration", data, *what, *places]
        server.start(argv, environment=started(len(servers), rank))
    for server in servers:
        server.wait()
    return [decode((place / f"{rank}.json").read_text()) for rank in range(len(servers))]


def tensors(folder):
    found = {}
    for shard in folder.glob("*.safetensors"):
        found |= load_file(shard)
    return found


@pytest.fixture
def model(tiny_model):
    return tiny_model("Llama", dtype=torch.float32)


@pytest.fixture
def both(fork_server, second_fork_server):
    return [fork_server, second_fork_server]


def test_two_processes_make_the_checkpoint_that_one_makes(both, model, tmp_path):
    (alone,) = run(both[:1], model, tmp_path / "one", LENGTHS)
    results = run(both, model, tmp_path / "two", LENGTHS, started=by_torchrun())
    assert results[0] == results[1]
    folders = [
        tmp_path / name / "store" / result.checkpoint_digest for name, result in (("one", alone), ("two", results[0]))
    ]
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
    assert list((tmp_path / "two" / "store").iterdir()) == [folders[1]]
    assert run(both, model, tmp_path / "two", LENGTHS) == results  # only reported


def test_processes_of_an_indexed_job_pass_by_an_address_that_leads_nowhere(both, model, tmp_path):
    work = tmp_path / "restarted" / "work"
    work.mkdir(parents=True)
    (work / "first-rank.json").write_text(json.dumps({"host": "127.0.0.1", "port": free_port()}))
    first, second = run(both, model, tmp_path / "restarted", LENGTHS)
    assert first == second
    # The first has ended by now, so one that starts again must not wait for it.
    again = run(both[:1], model, tmp_path / "restarted", LENGTHS, started=lambda *_: by_indexed_job(2, 1))
    assert again == [first]


def test_processes_with_different_inputs_are_refused(both, model, tmp_path):
    results = run(both, model, tmp_path / "different", LENGTHS, LENGTHS[1:])
    assert [result.failure.reason for result in results] == [FailureReason.RANKS_DIFFER] * 2
    assert not (tmp_path / "different" / "store").exists()


def test_a_process_may_have_no_sequence_to_run(both, model, tmp_path):
    first, second = run(both, model, tmp_path / "few", (40,))
    assert first == second
    assert (tmp_path / "few" / "store" / first.checkpoint_digest / "manifest.json").exists()


def test_a_folder_that_another_process_makes_at_the_same_moment_is_no_error(tmp_path, monkeypatch):
    # A rank that failed here left the others waiting for it.
    monkeypatch.setattr(Path, "exists", lambda _: False)
    private_folder(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_a_rank_whose_others_never_come_says_so(monkeypatch):
    monkeypatch.setattr("saffron_quantizer.ranks._TO_MEET", timedelta(seconds=1))
    environment = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with pytest.raises(StageError) as caught, joined(environment):
        pass
    assert (caught.value.failure.reason, caught.value.failure.subject) == (
        FailureReason.INPUT_OUTPUT,
        "the-other-ranks",
    )


def test_each_sequence_is_in_one_share_and_shares_are_alike():
    given = [torch.full((length,), length) for length in (3, 50, 7, 50, 20, 9, 1)]
    shares = [Ranks(rank, 3).share(given) for rank in range(3)]
    assert [[len(sequence) for sequence in share] for share in shares] == [[50, 9, 1], [7, 50], [3, 20]]


def test_one_process_shares_nothing_and_asks_nobody():
    tensor = torch.ones(3)
    assert ALONE.sum(tensor) is tensor
    assert ALONE.from_first(lambda: {"a": 1}) == {"a": 1}
    ALONE.require_same("it", pytest.fail)


BACKENDS = {"the CPU": ("cpu", "gloo", None), "a card": ("cuda", "cpu:gloo,cuda:nccl", "1")}


@pytest.mark.parametrize(("device", "backend", "waits"), BACKENDS.values(), ids=BACKENDS)
def test_sums_are_added_up_for(device, backend, waits, monkeypatch):
    begun = []
    monkeypatch.delenv("TORCH_NCCL_BLOCKING_WAIT", raising=False)
    monkeypatch.setattr("torch.distributed.init_process_group", lambda backend, **_: begun.append(backend))
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    monkeypatch.setattr("saffron_quantizer.ranks._meet", lambda *_: None)
    # A card that is there and not asked for is left alone.
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with joined({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a"}, device=torch.device(device)):
        assert (begun, os.environ.get("TORCH_NCCL_BLOCKING_WAIT")) == ([backend], waits)
    monkeypatch.delenv("TORCH_NCCL_BLOCKING_WAIT", raising=False)


class Lost:
    """A sum that another process left before it was done."""

    def wait(self):
        raise RuntimeError("NCCL error: remote process exited or there was a network error")


def test_a_rank_that_loses_the_others_in_a_sum_is_told_and_its_log_says_how(monkeypatch, caplog):
    # On a card only who waits is told, and what is not asynchronous is waited for by the card.
    monkeypatch.setattr("torch.distributed.all_reduce", lambda *_, async_op: Lost() if async_op else None)
    with pytest.raises(StageError) as caught:
        Ranks(0, 2).sum(torch.ones(3))
    assert (caught.value.failure.reason, caught.value.failure.subject) == (
        FailureReason.INPUT_OUTPUT,
        "the-other-ranks",
    )
    assert caplog.messages == [
        "The other processes can't be reached: NCCL error: remote process exited or there was a network error"
    ]


ENVIRONMENTS = {
    "none": ({}, None),
    "an Indexed Job without a world": ({"JOB_COMPLETION_INDEX": "3"}, None),
    "a world of one": ({"WORLD_SIZE": "1", "RANK": "0"}, None),
    "no rank": ({"WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "JOB_COMPLETION_INDEX"),
    "a rank beyond the world": ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a"}, "RANK"),
    "no address, and no folder to leave one in": ({"WORLD_SIZE": "2", "RANK": "1"}, "MASTER_ADDR"),
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


def test_the_first_process_of_an_indexed_job_must_know_its_own_address(tmp_path):
    with pytest.raises(StageError) as caught, joined({"WORLD_SIZE": "2", "JOB_COMPLETION_INDEX": "0"}, tmp_path):
        pass
    assert (caught.value.failure.reason, caught.value.failure.subject) == (FailureReason.SPEC_INVALID, "POD_IP")
