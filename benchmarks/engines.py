"""Which checkpoints vLLM serves on this CPU, and whether it computes with them what `saffron evaluate` computes.

    python benchmarks/engines.py

Fetches Gemma 3 270M and the prose, makes vLLM's virtual environment in the cache, makes a checkpoint of each scheme and
format, and compares the log-probabilities of 256 tokens of Persuasion. Both sides compute in bfloat16 with kernels of
their own, so the first line, the original, says how much differs for that reason alone.
"""

import json
import os
import shutil
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
from saffron_quantizer.inspect import processor
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.progress import ignore
from saffron_quantizer.quantize import quantize

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


def engine_python() -> Path:
    """The interpreter of vLLM's own virtual environment, made if it is not there."""
    folder = cache_folder() / "engine"
    environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(folder)}
    command = [sys.executable, "-m", "uv", "sync", "--quiet", "--frozen", "--no-install-workspace", "--group", "engine"]
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)
    return folder / "bin" / "python"


def own(folder: Path, tokens: list[int]) -> list[float]:
    """The log-probability of each token after the first, as evaluation computes it."""
    model = ModelStream.open(folder)
    (hidden,) = model.final_hidden([torch.tensor(tokens)])
    log_probabilities = torch.log_softmax(model.logits(hidden), dim=-1)  # [T, vocabulary]
    found: list[float] = log_probabilities[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].tolist()
    return found


def served(python: Path, folder: Path, tokens: Path) -> list[float] | str:
    """The same as vLLM serves it, or its own last words where it does not."""
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_INT4_W4A8": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    command = [str(python), str(SERVED), str(folder), str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode == 0:
        found: list[float] = json.loads(done.stdout.splitlines()[-1])
        return found
    told = [line for line in done.stderr.splitlines() if "Error" in line]
    return told[-1][:200] if told else f"ended with {done.returncode}"


def row(name: str, mine: list[float], theirs: list[float] | str) -> str:
    """One line of the table."""
    if isinstance(theirs, str):
        return f"| {name} | no: {theirs} | | | |"
    differences = [abs(one - other) for one, other in zip(mine, theirs, strict=True)]
    count = len(differences)
    means = -sum(mine) / count, -sum(theirs) / count
    return (
        f"| {name} | yes | {sum(differences) / count:.3f} | {max(differences):.2f} | "
        f"{means[0]:.4f}, {means[1]:.4f} ({means[1] - means[0]:+.4f}) |"
    )


def main() -> None:
    """Make every checkpoint, ask both, and print the table."""
    original = fetch_gemma()
    fetch_prose()
    python = engine_python()
    calibration = [torch.tensor(window) for window in windows(original, "emma", 8, 512)]
    (tokens,) = windows(original, "persuasion", 1, 256)
    isa = processor(torch.backends.cpu.get_cpu_capability(), Path("/proc/cpuinfo").read_text())
    print(f"CPU {isa}, dequantized Q4_K_M base, vLLM in bfloat16\n")
    print("| checkpoint | served | mean difference | largest | mean of each, in nats |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        file = place / "tokens.json"
        file.write_text(json.dumps(tokens))
        print(row("the original", own(original, tokens), served(python, original, file)), flush=True)
        for spec in CANDIDATES:
            out = place / "out"
            quantize(
                model=original,
                sequences=calibration if spec.needs_calibration else None,
                spec=spec,
                store=None,
                out=out,
                work=None,
                model_digest=None,
                data_digest=None,
                progress=ignore,
            )
            print(row(" ".join(command_line(spec)), own(out, tokens), served(python, out, file)), flush=True)
            shutil.rmtree(out)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
