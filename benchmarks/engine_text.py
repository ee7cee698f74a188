"""Whether `saffron generate` goes on with prompts as vLLM on this CPU does, greedily.

    python benchmarks/engine_text.py

Fetches Gemma 3 270M and the prose, makes vLLM's virtual environment in the cache, makes a W4A16 and a W8A8 checkpoint
with `saffron quantize`, and lets both programs go on with the beginnings of ten passages of Persuasion. For each prompt
it prints how many tokens are equal and, where the two part, by how much the largest logit is above the second on either
side: both compute in bfloat16, in which logits from 16 on are 1/8 apart, and add and round in orders of their own.

What that may do at a place is measured there: our own program computes it 128 times more, each with about half of the
embeddings' numbers one step of bfloat16 up or down, and it is told which token wins how often, and how far the logit of
our token is above that of vLLM's. A W8A8 linear rounds its inputs to steps of 1/127 of the token's largest, so that one
step of bfloat16 now and then becomes one of these, and a small gap says less there than for the original.
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
from saffron_quantizer.models.stream import ModelStream

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
AGAIN = 128
"""How often a place where the two part is computed again."""

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


def differences(folder: Path, places: Sequence[tuple[list[int], int, int]]) -> list[tuple[list[int], torch.Tensor]]:
    """What our program says again, in bfloat16, where the two part, with embeddings that are a step off.

    Args:
        folder: a checkpoint.
        places: the tokens that both have, then ours, then vLLM's.

    Returns:
        For each place the token that wins each time, and the logit of ours less that of vLLM's, [AGAIN] float32.
    """
    model = ModelStream.open(folder, dtype=torch.bfloat16)
    walk = model.walk([torch.tensor(tokens) for tokens, _, _ in places for _ in range(AGAIN)])
    random = torch.Generator().manual_seed(0)
    for number, state in enumerate(walk.states):
        # A number's last place is between 2^-8 and 2^-7 of it, so this is rounded to its neighbour.
        moved = torch.tensor([1 - 2**-8, 1, 1, 1 + 2**-8])[torch.randint(4, state.shape, generator=random)]
        walk.states[number] = (state.float() * moved).to(state.dtype)
    for index in range(model.n_blocks):
        with model.loaded(index):
            walk.advance(index)
    last = torch.stack([hidden[-1] for hidden in model.final(walk)])
    told = []
    for (_, own, other), hidden in zip(places, last.view(len(places), AGAIN, -1), strict=True):
        logits = model.logits(hidden)  # [AGAIN, vocabulary]
        told.append((logits.argmax(1).tolist(), logits[:, own] - logits[:, other]))
    return told


def table(folder: Path, tokens: list[list[int]], own: list[Answer], other: list[Answer]) -> list[str]:
    """The rows of a checkpoint's table, and below them a sentence."""
    parted = {}
    for number, (prompt, a, b) in enumerate(zip(tokens, own, other, strict=True)):
        equal = equal_tokens(a, b)
        if equal < len(a["tokens"]):
            parted[number] = ([*prompt, *a["tokens"][:equal]], a["tokens"][equal], b["tokens"][equal])
    again = dict(zip(parted, differences(folder, list(parted.values())) if parted else [], strict=True))
    rows, shown = [], 0
    for number, (a, b) in enumerate(zip(own, other, strict=True)):
        equal = equal_tokens(a, b)
        if number not in parted:
            rows.append(f"| {number + 1} | all {equal} | | | | |")
            continue
        _, ours_next, theirs_next = parted[number]
        winners, gaps = again[number]
        wins = [winners.count(ours_next), winners.count(theirs_next)]
        shown += wins[1] > 0
        rows.append(
            f"| {number + 1} | {equal} | {ours_next}, {theirs_next} | {a['gaps'][equal]:.3f}, {b['gaps'][equal]:.3f} "
            f"| {wins[0]}, {wins[1]}, {AGAIN - sum(wins)} | {gaps.min():.3f} to {gaps.max():.3f} |"
        )
    return [*rows, "", f"At {shown} of the {len(parted)} places vLLM's token is ours too when computed again."]


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
        encoded = [list(tokenizer.encode_prompt(Text(text))) for text in texts]
        tokens.write_text(json.dumps(encoded))
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
            print("| prompt | equal tokens | then ours, vLLM's | gaps there | again: ours, vLLM's, others | gap |")
            print("|---|---|---|---|---|---|")
            print("\n".join(table(folder, encoded, own, other)), flush=True)


if __name__ == "__main__":
    main()
