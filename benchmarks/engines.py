"""Which checkpoints vLLM serves on this CPU, and whether it computes with them what `saffron evaluate` computes.

    python benchmarks/engines.py

Fetches Gemma 3 270M and the prose, makes vLLM's virtual environment in the cache, makes a checkpoint of each scheme and
format, and compares the log-probabilities of 256 tokens of Persuasion. Both sides compute in bfloat16 with kernels of
their own; how much differs for that reason alone is told beside it, by what evaluation itself computes in float32.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peers import windows

from saffron_api.candidate import CandidateSpec, command_line
from saffron_dev.gemma import fetch_gemma
from saffron_dev.paths import cache_folder
from saffron_dev.prose import fetch_prose
from saffron_quantizer.destination import OwnFolder
from saffron_quantizer.inspect import processor
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.progress import ignore
from saffron_quantizer.quantize import quantize
from saffron_quantizer.quantize_request import QuantizeRequest

REPOSITORY = Path(__file__).resolve().parents[1]
SERVED = Path(__file__).resolve().parent / "engines" / "served.py"
CANDIDATES = (
    CandidateSpec(method="RTN", scheme="W4A16"),
    CandidateSpec(method="RTN", scheme="W4A16", format="AutoAWQ"),
    CandidateSpec(method="RTN", scheme="W4A16", format="AutoAWQ", symmetric=False),
    CandidateSpec(method="RTN", scheme="W4A16", format="GPTQ"),
    CandidateSpec(method="RTN", scheme="W8A16"),
    CandidateSpec(method="RTN", scheme="W8A8"),
    CandidateSpec(method="RTN", scheme="FP8"),
    CandidateSpec(method="RTN", scheme="FP8Static"),
    CandidateSpec(method="RTN", scheme="FP8", kv_cache="FP8"),
    CandidateSpec(method="RTN", scheme="W4A16", kv_cache="FP8"),
)
ENGINE_SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_INT4_W4A8": "0",  # W4A16 as it says, and not with inputs rounded to int8
    "VLLM_LOGGING_LEVEL": "ERROR",
}
"""vLLM's environment."""


def engine_python() -> Path:
    """The interpreter of vLLM's own virtual environment, made if it is not there."""
    folder = cache_folder() / "engine"
    environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(folder)}
    command = [sys.executable, "-m", "uv", "sync", "--quiet", "--frozen", "--no-install-workspace", "--group", "engine"]
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)
    return folder / "bin" / "python"


def own(folder: Path, tokens: list[int], dtype: torch.dtype = torch.bfloat16) -> list[float]:
    """The log-probability of each token after the first, as evaluation computes it."""
    model = ModelStream.open(folder, dtype=dtype)
    (hidden,) = model.final_hidden([torch.tensor(tokens)])
    log_probabilities = torch.log_softmax(model.logits(hidden), dim=-1)  # [T, vocabulary]
    found: list[float] = log_probabilities[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].tolist()
    return found


def served(python: Path, folders: list[Path], tokens: Path) -> list[list[float] | str]:
    """The same of each folder as vLLM serves it, or what it says where it does not."""
    environment = {**os.environ, **ENGINE_SETTINGS}
    command = [str(python), str(SERVED), str(tokens), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    told = [json.loads(line) for line in done.stdout.splitlines() if line[:1] in {"[", '"'}]
    if len(told) != len(folders):
        raise SystemExit(f"vLLM ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return told


def difference(one: list[float], other: list[float]) -> float:
    """How far two are from each other, token by token, on average."""
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)


def row(name: str, folder: Path, tokens: list[int], theirs: list[float] | str) -> str:
    """One line of the table."""
    if isinstance(theirs, str):
        return f"| {name} | no: {theirs} | | | |"
    mine, exact = own(folder, tokens), own(folder, tokens, torch.float32)
    means = [f"{-sum(each) / len(each):.3f}" for each in (theirs, mine, exact)]
    return f"| {name} | yes | {difference(mine, theirs):.3f} | {difference(mine, exact):.3f} | {', '.join(means)} |"


def main() -> None:
    """Make every checkpoint, ask both, and print the table."""
    original = fetch_gemma()
    fetch_prose()
    python = engine_python()
    calibration = [torch.tensor(window) for window in windows(original, "emma", 8, 512)]
    (tokens,) = windows(original, "persuasion", 1, 256)
    isa = processor(torch.backends.cpu.get_cpu_capability(), Path("/proc/cpuinfo").read_text())
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        file = place / "tokens.json"
        file.write_text(json.dumps(tokens))
        checkpoints = {"the original": original}
        for number, spec in enumerate(CANDIDATES):
            checkpoints[" ".join(command_line(spec))] = made(original, calibration, spec, place / str(number))
        answers = served(python, list(checkpoints.values()), file)
        print(f"CPU {isa}, dequantized Q4_K_M base, vLLM in bfloat16\n")
        print(
            "| checkpoint | served | to ours in bfloat16 | ours in bfloat16 to float32 | means: vLLM, ours, float32 |"
        )
        print("|---|---|---|---|---|")
        for (name, folder), theirs in zip(checkpoints.items(), answers, strict=True):
            print(row(name, folder, tokens, theirs), flush=True)


def made(original: Path, calibration: list[torch.Tensor], spec: CandidateSpec, out: Path) -> Path:
    """The folder of a new checkpoint."""
    quantize(QuantizeRequest(original, spec, calibration), OwnFolder(out), ignore)
    return out


if __name__ == "__main__":
    with torch.inference_mode():
        main()
