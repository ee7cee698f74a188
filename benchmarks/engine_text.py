"""Whether `saffron generate` goes on with prompts as vLLM on this CPU does, greedily.

    python benchmarks/engine_text.py

Fetches Gemma 3 270M and the prose, makes vLLM's virtual environment in the cache, makes a W4A16 and a W8A8 checkpoint
with `saffron quantize`, and lets both programs go on with the beginnings of ten passages of Persuasion. For each prompt
it prints how many tokens are equal and, where the two part, by how much the largest logit is above the second on either
side: both compute in bfloat16, in which logits from 16 on are 1/8 apart, and add and round in orders of their own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from engines import ENGINE_SETTINGS, engine_python
from peers import sampled, windows

from saffron_dev.gemma import fetch_gemma
from saffron_dev.prose import fetch_prose
from saffron_quantizer.data.lines import Text
from saffron_quantizer.data.tokenizer import Tokenizer
from saffron_quantizer.inspect import processor

GREEDY = Path(__file__).resolve().parent / "engines" / "greedy.py"
SAFFRON = Path(sys.executable).with_name("saffron")
CANDIDATES = {
    "GPTQ W4A16": ("--method", "gptq", "--scheme", "w4a16"),
    "RTN W8A8": ("--method", "rtn", "--scheme", "w8a8"),
}
NOVEL = "persuasion"
PROMPTS, WORDS = 10, 16
ENOUGH = 16
"""Tokens that are to be equal."""

Answer = dict[str, Any]
"""`tokens` and `gaps` of one prompt."""


def prompts() -> list[str]:
    """The first words of passages of a novel, in equal steps."""
    lines = [json.loads(line) for line in fetch_prose().read_text().splitlines()]
    passages = [line["text"] for line in lines if line["conversation"].startswith(NOVEL)]
    chosen = passages[:: len(passages) // PROMPTS][:PROMPTS]
    return [" ".join(passage.split()[:WORDS]) for passage in chosen]


def checkpoint(model: Path, options: Sequence[str], scratch: Path, number: int) -> Path:
    """The folder of a new checkpoint, calibrated on another novel where the method asks for it."""
    calibration = scratch / "calibration.jsonl"
    calibration.write_text(sampled(windows(model, "emma", 16, 512)))
    out = scratch / str(number)
    data = () if "rtn" in options else ("--calibration", calibration)
    command = [SAFFRON, "quantize", "--model", model, *options, *data, "--out", out]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return out


def ours(folder: Path, texts: Path, new_tokens: int) -> list[Answer]:
    """What `saffron generate` says of each prompt."""
    command = [
        SAFFRON,
        "generate",
        "--model",
        folder,
        "--prompts",
        texts,
        "--max-new-tokens",
        str(new_tokens),
        "--json",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def theirs(folders: Sequence[Path], tokens: Path, new_tokens: int) -> list[list[Answer]]:
    """What vLLM says of each prompt, for each folder."""
    command = [engine_python(), GREEDY, tokens, str(new_tokens), *folders]
    environment = {**os.environ, **ENGINE_SETTINGS}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    told = [json.loads(line) for line in done.stdout.splitlines() if line[:1] in {"[", '"'}]
    if len(told) != len(folders) or any(isinstance(each, str) for each in told):
        raise SystemExit(f"vLLM ended with {done.returncode} and said {told}:\n{done.stderr[-3000:]}")
    return told


def row(number: int, own: Answer, other: Answer) -> str:
    """One line of the table."""
    equal = equal_tokens(own, other)
    if equal == len(own["tokens"]):
        return f"| {number} | all {equal} | | | |"
    gaps = f"{own['gaps'][equal]:.3f} | {other['gaps'][equal]:.3f}"
    return f"| {number} | {equal} | {own['tokens'][equal]}, {other['tokens'][equal]} | {gaps} |"


def equal_tokens(own: Answer, other: Answer) -> int:
    """How many tokens are the same before the first that is not."""
    pairs = zip(own["tokens"], other["tokens"], strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), len(own["tokens"]))


def main() -> None:
    """Make the checkpoints, ask both programs, and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens that are compared (default: %(default)s)")
    new_tokens: int = parser.parse_args().new_tokens
    model = fetch_gemma()
    tokenizer = Tokenizer(model)
    texts = prompts()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        lines, tokens = place / "prompts.jsonl", place / "prompts.json"
        lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        tokens.write_text(json.dumps([tokenizer.encode_prompt(Text(text)) for text in texts]))
        folders = {"the original": model}
        for number, (name, options) in enumerate(CANDIDATES.items()):
            folders[name] = checkpoint(model, options, place, number)
        answers = theirs(list(folders.values()), tokens, new_tokens)
        isa = processor(torch.backends.cpu.get_cpu_capability(), Path("/proc/cpuinfo").read_text())
        print(f"CPU {isa}, Gemma 3 270M (dequantized Q4_K_M), {new_tokens} new tokens, vLLM in bfloat16")
        for (name, folder), other in zip(folders.items(), answers, strict=True):
            own = ours(folder, lines, new_tokens)
            counts = [equal_tokens(a, b) for a, b in zip(own, other, strict=True)]
            enough = sum(count >= ENOUGH for count in counts)
            print(f"\n{name}: the first {ENOUGH} tokens are equal on {enough} of {PROMPTS} prompts\n")
            print("| prompt | equal tokens | then ours, vLLM's | our gap there | vLLM's |")
            print("|---|---|---|---|---|")
            for number, pair in enumerate(zip(own, other, strict=True), start=1):
                print(row(number, *pair), flush=True)


if __name__ == "__main__":
    main()
