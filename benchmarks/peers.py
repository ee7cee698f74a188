"""RTN and GPTQ to W4A16 g128 by Saffron and by llm-compressor, on the same model and the same calibration tokens.

    python benchmarks/peers.py

Fetches Gemma 3 270M and the prose, makes the peer's virtual environment in the cache, runs each program by itself one
after the other, and prints a table. Wall time is of the whole process, imports included; memory is the largest sum of
resident memory over a process and its children, sampled ten times a second.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from transformers import AutoTokenizer

from saffron_dev.gemma import fetch_gemma
from saffron_dev.paths import cache_folder
from saffron_dev.prose import fetch_prose, novel_file

PEER = "llmcompressor==0.14.0.1"
HERE = Path(__file__).resolve().parent / "peers"
BOS = 2


@dataclass(frozen=True)
class Run:
    """What one program needed."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    output: str


def peer_python() -> Path:
    """The interpreter of the peer's own virtual environment, made if it is not there."""
    folder = cache_folder() / "peers" / PEER
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "uv", "venv", "--clear", "--python", sys.executable, folder], check=True)
        subprocess.run([sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, PEER], check=True)
        (folder / "ready").touch()
    return python


def windows(model: Path, novel: str, count: int, length: int) -> list[list[int]]:
    """The first tokens of a novel as windows, each with <bos> before it."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer(novel_file(novel).read_text(), add_special_tokens=False)["input_ids"]
    step = length - 1
    return [[BOS, *ids[number * step : (number + 1) * step]] for number in range(count)]


def measure(command: list[str | Path]) -> Run:
    """Run a program and watch it."""
    before = os.times()
    begun = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(child, peak))
    watcher.start()
    output, errors = child.communicate()
    watcher.join()
    seconds, after = time.monotonic() - begun, os.times()
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{errors[-3000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(seconds, cpu, peak[0], output)


def _watch(child: "subprocess.Popen[str]", peak: list[int]) -> None:
    """Keep the largest sum of resident memory of a process and those below it."""
    while child.poll() is None:
        try:
            root = psutil.Process(child.pid)
            family = [root, *root.children(recursive=True)]
            peak[0] = max(peak[0], sum(process.memory_info().rss for process in family))
        except psutil.NoSuchProcess:
            pass  # one of them ended between being listed and being asked
        time.sleep(0.1)


def perplexity(folder: Path, tokens: Path) -> float:
    """Perplexity in a process of its own."""
    return float(measure([sys.executable, HERE / "perplexity.py", folder, tokens]).output)


def main() -> None:
    """Run everything and print the table."""
    model = fetch_gemma()
    fetch_prose()
    programs = {"Saffron": (sys.executable, "saffron.py"), PEER: (peer_python(), "llm_compressor.py")}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        calibration, held_out = place / "emma.json", place / "persuasion.json"
        calibration.write_text(json.dumps(windows(model, "emma", 32, 512)))
        held_out.write_text(json.dumps(windows(model, "persuasion", 12, 1024)))
        base = perplexity(model, held_out)
        print(f"CPU capability {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads,")
        print(f"load {os.getloadavg()[0]:.1f} at the start, torch {torch.__version__}")
        print("Base: Gemma 3 270M, dequantized Q4_K_M. Calibration: 32 x 512 tokens of Emma with <bos>.\n")
        print("| program | method | perplexity | ratio | wall s | CPU s | peak GB |")
        print("|---|---|---|---|---|---|---|")
        print(f"| - | base (bfloat16) | {base:.2f} | 1 | | | |", flush=True)
        for method in ("RTN", "GPTQ"):
            for name, (python, script) in programs.items():
                out = place / "out"
                run = measure([python, HERE / script, model, calibration, method, out])
                found = perplexity(out, held_out)
                print(
                    f"| {name} | {method} | {found:.2f} | {found / base:.3f} | {run.seconds:.1f} | "
                    f"{run.cpu_seconds:.1f} | {run.peak_bytes / 1e9:.2f} |",
                    flush=True,
                )
                shutil.rmtree(out)


if __name__ == "__main__":
    main()
