"""How fast text comes from Gemma 3 270M and its checkpoints, side by side.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --rounds 9 --new-tokens 64

Holds all models in memory in one process. In each round each of them goes on with the same prompt; ratios are taken
within a round, so that what slows the machine for a while slows all. Each token reads every weight once (the embedding
is the output head, too); how many bytes a second that is in the best round stands there as a share of what this machine
reads and writes when it copies memory.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from engines import made
from peers import spread

from saffron_api.candidate import CandidateSpec, Scheme
from saffron_dev.gemma import fetch_gemma
from saffron_quantizer.data.lines import Text
from saffron_quantizer.data.tokenizer import Tokenizer
from saffron_quantizer.generate import Sampling, generate
from saffron_quantizer.inspect import processor
from saffron_quantizer.models.whole import WholeModel

PROMPT = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of"
CPU = torch.device("cpu")
SCHEMES = (Scheme.W4A16, Scheme.W8A16, Scheme.W8A8, Scheme.FP8)


@dataclass(frozen=True)
class Speed:
    """One model in one round.

    Attributes:
        prompt: tokens of the prompt a second.
        decode: tokens a second after the first.
    """

    prompt: float
    decode: float


def measured(model: WholeModel, prompt: tuple[int, ...], new_tokens: int) -> Speed:
    """Go on with the prompt once."""
    steps = generate(model, prompt, Sampling(new_tokens))
    begun = time.perf_counter()
    next(steps)
    first = time.perf_counter()
    count = sum(1 for _ in steps)
    return Speed(len(prompt) / (first - begun), count / (time.perf_counter() - first))


def copied(size: int = 1 << 28) -> float:
    """Bytes a second that this machine reads and writes when it copies memory."""
    a, b = torch.ones(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8)
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        b.copy_(a)
        best = min(best, time.perf_counter() - begun)
    return 2 * size / best


@contextmanager
def models() -> Iterator[dict[str, WholeModel]]:
    """The original and a checkpoint of each scheme, in memory."""
    original = fetch_gemma()
    with tempfile.TemporaryDirectory() as scratch:
        found = {"the original": WholeModel.open(original, CPU)}
        for scheme in SCHEMES:
            spec = CandidateSpec(method="RTN", scheme=scheme)
            found[scheme] = WholeModel.open(made(original, [], spec, Path(scratch) / scheme), CPU)
        yield found


def main() -> None:
    """Measure every model in every round and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--new-tokens", type=int, default=48, help="tokens of each (default: %(default)s)")
    arguments = parser.parse_args()
    prompt = Tokenizer(fetch_gemma()).encode_prompt(Text(PROMPT))
    with models() as loaded:
        for model in loaded.values():
            model.stop_tokens = frozenset()
            measured(model, prompt, 2)  # kernels are compiled on their first call
        speeds: dict[str, list[Speed]] = {name: [] for name in loaded}
        load = os.getloadavg()[0]
        for _ in range(arguments.rounds):
            for name, model in loaded.items():
                speeds[name].append(measured(model, prompt, arguments.new_tokens))
        isa = processor(torch.backends.cpu.get_cpu_capability(), Path("/proc/cpuinfo").read_text())
        bandwidth = copied()
        print(f"CPU {isa}, {torch.get_num_threads()} threads, load {load:.1f} at the start, {arguments.rounds} rounds,")
        print(
            f"{len(prompt)} tokens of prompt and {arguments.new_tokens} new ones; memory: {bandwidth / 1e9:.1f} GB/s\n"
        )
        print("| model | weights, MB | prompt, tokens/s | decode, tokens/s | ratio to the original | share of memory |")
        print("|---|---|---|---|---|---|")
        for name, own in speeds.items():
            ratios = [each.decode / base.decode for each, base in zip(own, speeds["the original"], strict=True)]
            share = max(each.decode for each in own) * loaded[name].bytes / bandwidth
            print(
                f"| {name} | {loaded[name].bytes / 1e6:.0f} | {spread([each.prompt for each in own])} | "
                f"{spread([each.decode for each in own])} | {spread(ratios, '.2f')} | {share:.2f} |"
            )


if __name__ == "__main__":
    main()
