"""Tiny models of every architecture in vLLM on a CPU (make engines): it computes what our reader does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tinymodels.checkpoints import checkpoint_of
from tinymodels.support import CLAIMS, SPECS, VLLM, Proof

from saffron_dev.paths import cache_folder
from saffron_quantizer.models.stream import ModelStream

pytestmark = [pytest.mark.engine, pytest.mark.timeout(7200)]

REPOSITORY = Path(__file__).resolve().parents[2]
_PROGRAM = Path(__file__).parent / "tinymodels" / "vllm_logprobs.py"  # it imports vLLM, which this interpreter has not
TOKENS = (1, 5, 9, 80, 33, 2, 7, 11, 50, 4)
CASES = [claim for claim in CLAIMS if claim.engine == VLLM]
# vLLM's kernels for a CPU want heads of at least 32 and rows and columns that 32 divides.
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "vocab_size": 128,
    "initializer_range": 0.1,
}
OTHER_SHAPES = {
    "Qwen3Moe": {"moe_intermediate_size": 128},
    "Gemma2": {"query_pre_attn_scalar": 64},
    "OPT": {"ffn_dim": 256, "word_embed_proj_dim": 128},
    "GPTNeoX": {"num_key_value_heads": 2},
}


@pytest.fixture(scope="module")
def vllm_python():
    """The interpreter of vLLM's own virtual environment, made if it is not there."""
    folder = cache_folder() / "engine"
    command = [sys.executable, "-m", "uv", "sync", "--quiet", "--frozen", "--no-install-workspace", "--group", "engine"]
    environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(folder)}
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def served(vllm_python, tiny_model, tmp_path_factory):
    """For each claim its checkpoint's folder and what vLLM says of it. One process loads all, one after the other."""
    folders = {}
    for claim in CASES:
        fields = {**SHAPE, **OTHER_SHAPES.get(claim.model, {})}
        folders[claim] = tmp_path_factory.mktemp(claim.model) / "checkpoint"
        checkpoint_of(tiny_model(claim.model, dtype=torch.bfloat16, **fields), SPECS[claim.scheme], folders[claim])
    settings = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_INT4_W4A8": "0"}
    tokens = ",".join(map(str, TOKENS))
    command = [vllm_python, _PROGRAM, tokens, *folders.values()]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **settings}, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"folder"')]
    return {claim: (folder, answer) for (claim, folder), answer in zip(folders.items(), answers, strict=True)}


@pytest.mark.parametrize("claim", CASES, ids=lambda claim: f"{claim.model}-{claim.scheme}")
def test_vllm_computes_what_our_reader_does_or_refuses_as_the_page_says(served, claim):
    folder, answer = served[claim]
    without = claim.needs_amx and not torch.cpu._is_amx_tile_supported()
    if claim.proof is Proof.REFUSED or without:
        assert claim.told in answer["error"]
        return
    assert "logprobs" in answer, answer["error"]
    stream = ModelStream.open(folder, dtype=torch.float32)
    logits = stream.logits(stream.final_hidden([torch.tensor(TOKENS)])[0])
    ours = torch.log_softmax(logits, dim=-1)[:-1].gather(1, torch.tensor(TOKENS[1:])[:, None])[:, 0]
    # vLLM computes in bfloat16, whose steps are 1/256 of a number, in a few dozen roundings one after the other; a part
    # left out or a shard in the wrong place moves log-probabilities that are spread over several nats by whole nats.
    assert (ours - torch.tensor(answer["logprobs"])).abs().mean() < 0.1
