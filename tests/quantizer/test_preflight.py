"""What a run is told to need, how much is free, and what is refused before any work."""

import pytest
import torch
from tinymodels.checkpoints import checkpoint_of

from saffron_api.candidate import CandidateSpec, Target
from saffron_api.failures import FailureReason, StageError
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.memory import free_bytes
from saffron_quantizer.plan import make_plan
from saffron_quantizer.preflight import Needs, activation_budget, needs, require_room

MEMINFO = "MemTotal:  2000 kB\nMemFree:  10 kB\nMemAvailable:  1000 kB\n"
SYSTEMS = {
    "a machine without control groups": ({"proc/meminfo": MEMINFO}, 1_024_000),
    "a container of version 2, whose own group is the root": (
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "500000\n",
            "sys/fs/cgroup/memory.current": "300000\n",
            "sys/fs/cgroup/memory.stat": "anon 200000\ninactive_file 90000\nactive_file 10000\n",
        },
        290_000,
    ),
    "a group without a limit inside one with a limit": (
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/pod/container\n",
            "sys/fs/cgroup/pod/container/memory.max": "max\n",
            "sys/fs/cgroup/pod/container/memory.current": "1\n",
            "sys/fs/cgroup/pod/memory.max": "400000\n",
            "sys/fs/cgroup/pod/memory.current": "300000\n",
        },
        100_000,
    ),
    "version 1": (
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/x\n",
            "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "600000\n",
            "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "500000\n",
            "sys/fs/cgroup/memory/x/memory.stat": "inactive_file 1\ntotal_inactive_file 50000\n",
        },
        150_000,
    ),
    "a group that is over its limit": (
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "5\n",
            "sys/fs/cgroup/memory.current": "6\n",
        },
        0,
    ),
    "a system that does not tell": ({}, None),
}


@pytest.mark.parametrize(("files", "expected"), SYSTEMS.values(), ids=SYSTEMS)
def test_free_memory_is_what_the_tightest_bound_leaves(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_bytes(tmp_path) == expected


SEQUENCES = [torch.ones(length, dtype=torch.int64) for length in (24, 40, 3)]
GPTQ = CandidateSpec(method="GPTQ", scheme="W4A16", group_size=32)
RTN = CandidateSpec(method="RTN", scheme="W8A8")


def needed(model, spec, sequences, dtype=torch.float32):
    reader = CheckpointReader(model)
    return needs(reader, make_plan(reader, spec), sequences, dtype, torch.bfloat16)


def test_the_needs_of_gptq_are_those_of_its_shapes(tiny_model):
    model = tiny_model("Llama", dtype=torch.bfloat16)
    found = needed(model, GPTQ, SEQUENCES)
    # A block: q and o 64 x 64, k and v 32 x 64, gate, up and down 128 x 64, two norms of 64; 97 x 64 outside.
    elements = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64 + 2 * 64
    (shards,) = {path.stat().st_size for path in model.glob("generation_config.json")}
    assert found == Needs(
        outside=97 * 64 * 2 * 2,
        blocks=2 * elements * 2 + elements * 4 + 2 * (make_plan(CheckpointReader(model), GPTQ).bytes // 2),
        # The longest sequence is padded to 64 tokens, and alone a batch of 64; the other two make one of 2 x 32.
        forward=192 * (3 * 128 * 4 + 128 * 4) + 128 * 128 * 4,
        rounding=4 * (2 * 64**2 + 4 * 256 * 64),  # of gate and up
        activations=192 * (64 + 64 + 128) * 2,  # in bfloat16
        checkpoint=make_plan(CheckpointReader(model), GPTQ).bytes + shards,
    )


def test_towards_the_original_another_walk_and_what_linears_read_there_need_room(tiny_model):
    model = tiny_model("Llama", dtype=torch.bfloat16)
    plain, found = (needed(model, GPTQ.model_copy(update={"target": target}), SEQUENCES) for target in Target)
    # Hidden states and the inputs of q, o, gate and down; then one more Hessian, and two copies of the weights.
    more = 192 * (64 + 64 + 64 + 64 + 128) * 2
    assert found.activations == plain.activations + more
    assert found.rounding == plain.rounding + 4 * (64**2 + 2 * 256 * 64)


def test_a_method_that_reads_no_data_keeps_no_activations(tiny_model):
    found = needed(tiny_model("Llama", dtype=torch.bfloat16), RTN, [])
    assert (found.activations, found.forward) == (0, 0)


NEEDS = Needs(outside=10, blocks=50, forward=20, rounding=30, activations=1000, checkpoint=0)
BUDGETS = {
    "half of what is left by default": (None, 180, 50),
    "what is asked for": (70, 180, 70),
    "as much as is asked for where nothing is known": (70, None, 70),
    "all where nothing is known": (None, None, 1000),
    "nothing, if just the rest has room": (None, 80, 0),
}


@pytest.mark.parametrize(("asked", "free", "expected"), BUDGETS.values(), ids=BUDGETS)
def test_activations_get(monkeypatch, asked, free, expected):
    monkeypatch.setattr("saffron_quantizer.preflight.free_bytes", lambda: free)
    assert activation_budget(NEEDS, asked) == expected


@pytest.mark.parametrize(("asked", "need"), [(None, 80), (100, 180), (5000, 1080)])
def test_what_has_no_room_in_memory_is_refused(monkeypatch, asked, need):
    monkeypatch.setattr("saffron_quantizer.preflight.free_bytes", lambda: 79)
    with pytest.raises(StageError) as caught:
        activation_budget(NEEDS, asked)
    failure = caught.value.failure
    assert (failure.reason, failure.have, failure.need) == (FailureReason.MEMORY_TOO_SMALL, 79, need)
    assert str(caught.value).startswith(f"quantize needs about {need} bytes of memory and 79 are free; raise ")


def test_too_little_memory_is_refused_before_any_work(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("saffron_quantizer.preflight.free_bytes", lambda: 1000)
    with pytest.raises(StageError) as caught:
        checkpoint_of(tiny_model(), GPTQ, tmp_path / "out", SEQUENCES)
    assert caught.value.failure.reason is FailureReason.MEMORY_TOO_SMALL
    assert not (tmp_path / "out").exists()


def test_room_is_asked_of_each_volume_for_what_goes_there(tmp_path, monkeypatch):
    """Both folders are on one volume here, so it must hold the checkpoint and what the budget leaves over."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1_048_576 + 939}))
    need = Needs(outside=0, blocks=0, forward=0, rounding=0, activations=1000, checkpoint=500)
    require_room(tmp_path / "out", tmp_path / "work", need, budget=600)
    with pytest.raises(StageError) as caught:
        require_room(tmp_path / "out", tmp_path / "work", need, budget=560)
    failure = caught.value.failure
    assert (failure.reason, failure.have, failure.need) == (FailureReason.STORAGE_FULL, 1_049_515, 1_049_516)
