"""Whether rounding that is learned by gradients beats RTN and GPTQ, on novels that nothing was fitted to, and its cost.

    python benchmarks/learned_rounding.py
    python benchmarks/learned_rounding.py --starts GPTQ "GPTQ Original" --steps 0 50 --blocks 4 --novels mansfieldpark

It is AutoRound (arXiv 2309.05516) after any start, block by block. The error that is made small is between what a block
gives for the inputs of the quantized stream and what the original gives for its own, on the windows of Emma that GPTQ
is calibrated on. 0 steps are the start alone. A block whose error on all of these windows has not become less keeps its
start.

Printed are, of each way and novel, the perplexity over the original's, with bounds of 0.95 each from a bootstrap over
windows, the divergence, and the perplexity over the first way's. Where `--blocks` quantizes only the first few, it is
the error of the hidden states behind them instead, relative to their size, and the geometric mean, over the tokens, of
its ratio to the first way's. Then, as means over the blocks, the error on the calibration sequences after learning over
that before, the share of codes that learning changed, and the processor's seconds: of the start, and of learning.
Choose settings on one novel, and report on others.
"""

import argparse
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from autoround import Block, LearnedLinear, Setting, learn
from held_out import LEVEL, WAYS, Sums, Text, before_targets, read_text, sums_of
from peers import windows
from torch import Tensor
from torch.func import functional_call

from saffron_api.candidate import CandidateSpec, Target
from saffron_dev.gemma import fetch_gemma
from saffron_dev.prose import NOVELS, fetch_prose
from saffron_quantizer.algorithms.quantized import Quantized
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.evaluation.bootstrap import Vector, ratio_bounds
from saffron_quantizer.models.stream import ModelStream, Walk
from saffron_quantizer.plan import Plan, make_plan
from saffron_quantizer.quantize_block import calibrate_block, restore, round_block

STARTS: dict[str, CandidateSpec] = {
    "RTN": WAYS["RTN MSE"],
    "RTN MinMax": WAYS["RTN MinMax"],
    "GPTQ": WAYS["GPTQ Static Hessian"],
    "GPTQ Original": WAYS["GPTQ Original"],
}
"""What learning may start from; RTN and GPTQ as they are where nothing is said."""


@dataclass(frozen=True)
class Made:
    """A quantized block.

    Attributes:
        tensors: its own as they are computed with, by name.
        seconds: of the processor, for the start.
        learning: of the processor, for learning.
        ratio: the error after learning over that before.
        moved: the share of codes that learning changed.
    """

    tensors: dict[str, Tensor]
    seconds: float
    learning: float = 0.0
    ratio: float = 1.0
    moved: float = 0.0


class Quantization:
    """One way's walk through a model, which quantizes block after block."""

    def __init__(self, stream: ModelStream, folder: Path, spec: CandidateSpec, setting: Setting) -> None:
        self._stream = stream
        self._reader = CheckpointReader(folder)
        self._plan: Plan = make_plan(self._reader, spec)
        self._setting = setting

    def blocks(self, fit: list[Tensor], count: int) -> Iterator[Made]:
        """Quantize the first blocks, calibrated on sequences of one length."""
        walk = self._stream.walk(fit)
        original = walk.fork()
        for index in range(count):
            before = walk.fork()
            stored, made = self._start(index, walk, original)
            if self._setting.steps > 0:
                made = self._learned(index, stored, made, before, original)
                with self._stream.loaded(index, made.tensors):
                    before.advance(index)
                walk = before
            yield made

    @torch.no_grad()
    def _start(self, index: int, walk: Walk, original: Walk) -> tuple[Mapping[str, Tensor], Made]:
        """Quantize a block, and take the walks past it that the method looks at.

        Returns:
            The block's tensors as they are stored, and as they are computed with.
        """
        plan = self._plan
        tensors = {name: self._reader.read(name) for name in plan.blocks[index]}
        begun = time.process_time()
        if plan.spec.needs_calibration:
            with self._stream.loaded(index, tensors):
                compared = original if plan.spec.target is Target.ORIGINAL else None
                stored = calibrate_block(plan, index, walk, tensors, compared).stored
        else:
            stored = round_block(plan, index, tensors).stored
        return stored, Made(restore(plan, index, stored), time.process_time() - begun)

    def _learned(self, index: int, stored: Mapping[str, Tensor], made: Made, walk: Walk, original: Walk) -> Made:
        """Learn the rounding of a block.

        Args:
            index: of the block.
            stored: what learning starts from.
            made: the same, as it is computed with.
            walk: stands before the block, in the quantized model.
            original: is taken past it, unless the start has done so.
        """
        begun = time.process_time()
        if self._plan.spec.target is not Target.ORIGINAL:
            with self._stream.loaded(index):
                original.advance(index)
        linears = dict(self._linears(index, stored))
        with self._stream.loaded(index, made.tensors), differentiable(self._stream):
            found, ratio = learn(
                block_of(walk, original, index, relative=self._setting.relative), linears, self._setting
            )
        learning = time.process_time() - begun
        changed = sum(int((each.codes != linears[name].start.codes).sum()) for name, each in found.items())
        weights = {f"{self._plan.architecture.block(index)}.{name}": each.dequantize() for name, each in found.items()}
        moved = changed / sum(each.numel() for each in weights.values())
        return replace(made, tensors=made.tensors | weights, learning=learning, ratio=ratio, moved=moved)

    def _linears(self, index: int, stored: Mapping[str, Tensor]) -> Iterator[tuple[str, LearnedLinear]]:
        """The weights of a block's linears, by their names inside it."""
        plan = self._plan
        for name in (name for name in plan.blocks[index] if name in plan.precisions):
            W = self._reader.read(name)
            start = plan.layout.restored(name, plan.precisions[name], stored.__getitem__)
            assert isinstance(start, Quantized)
            linear = LearnedLinear.of(W, start, plan.grid(name, W.dtype), self._setting.pull)
            yield name.removeprefix(f"{plan.architecture.block(index)}."), linear


def block_of(before: Walk, after: Walk, index: int, *, relative: bool) -> Block:
    """What a loaded block is taught with; all sequences have one length."""
    module = before.stream.blocks[index]
    keywords = before.stream.inputs(index, before.batches[0])
    targets = torch.cat(list(after.states))
    sizes = targets.float().square().mean(2, keepdim=True)

    def forward(weights: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        output: Tensor = functional_call(module, dict(weights), (hidden,), keywords)
        return output

    return Block(forward, torch.cat(list(before.states)), targets, 1 / sizes if relative else torch.ones_like(sizes))


@contextmanager
def differentiable(stream: ModelStream) -> Iterator[None]:
    """Attend with torch's own kernel, which has a gradient, for as long as the context lasts."""
    config = stream.config
    own = config._attn_implementation  # noqa: SLF001 - what transformers looks at in every call
    config._attn_implementation = "sdpa"  # noqa: SLF001
    try:
        yield
    finally:
        config._attn_implementation = own  # noqa: SLF001


@torch.no_grad()
def states(stream: ModelStream, text: Text, blocks: Sequence[Made]) -> Tensor:
    """What a quantized model has before its head."""
    walk = stream.walk(text.rows)
    for index, made in enumerate(blocks):
        with stream.loaded(index, made.tensors):
            walk.advance(index)
    return before_targets(stream.final(walk))


@dataclass(frozen=True)
class HiddenErrors:
    """The error of each window's hidden states, |x - x̃|² / |x̃|² of each token, with x̃ the original's.

    Attributes:
        tokens: [windows].
        sums: [windows], over the tokens.
        logs: [windows], of their logarithms.
    """

    tokens: Vector
    sums: Vector
    logs: Vector


@torch.no_grad()
def hidden_errors(stream: ModelStream, rows: list[Tensor], blocks: Sequence[Made]) -> HiddenErrors:
    """The error behind the last of the quantized blocks, of windows of one length."""
    walk = stream.walk(rows)
    original = walk.fork()
    for index, made in enumerate(blocks):
        with stream.loaded(index):
            original.advance(index)
        with stream.loaded(index, made.tensors):
            walk.advance(index)
    x, true = (torch.cat(list(each.states)).double() for each in (walk, original))
    errors = (x - true).square().sum(2) / true.square().sum(2)
    tokens = np.full(len(errors), errors.shape[1], dtype=np.float64)
    # A token that is computed alike to the last bit has no logarithm; bfloat16 knows no error as small as this.
    return HiddenErrors(tokens, errors.sum(1).numpy(), errors.clamp(min=1e-9).log().sum(1).numpy())


def of_taught(blocks: Sequence[Made]) -> str:
    """The columns that tell what learning did to the blocks, and what it took."""
    error = math.exp(mean(math.log(made.ratio) for made in blocks))
    return (
        f"{error:.3f} | {mean(made.moved for made in blocks):.3f} | {mean(made.seconds for made in blocks):.1f} + "
        f"{mean(made.learning for made in blocks):.1f}"
    )


def of_model(found: Sums, first: Sums) -> str:
    """The columns of a model all of whose blocks are quantized."""
    divergence = found.divergence.sum() / found.tokens.sum()
    return (
        f"{_of_means(found.candidate - found.original, found.tokens)} | {divergence:.4f} | "
        f"{_of_means(found.candidate - first.candidate, found.tokens)}"
    )


def of_hidden(found: HiddenErrors, first: HiddenErrors) -> str:
    """The columns of a model of which only the first blocks are quantized."""
    return f"{found.sums.sum() / found.tokens.sum():.5f} | {_of_means(found.logs - first.logs, found.tokens)}"


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean."""
    known = list(values)
    return sum(known) / len(known)


def _of_means(apart: Vector, tokens: Vector) -> str:
    """A ratio of perplexities or of other geometric means, with its bounds."""
    loss = ratio_bounds(apart, tokens, level=LEVEL)
    return f"{math.exp(loss.value):.3f} ({math.exp(loss.lower):.3f} to {math.exp(loss.upper):.3f})"


def compare(arguments: argparse.Namespace) -> None:
    """Print the table, a row as soon as it is known."""
    folder = fetch_gemma()
    stream = ModelStream.open(folder)
    fit = [torch.tensor(row) for row in windows(folder, "emma", arguments.sequences, 512)]
    rows = {
        novel: [torch.tensor(row) for row in windows(folder, novel, arguments.windows, 1024)]
        for novel in arguments.novels
    }
    whole = arguments.blocks >= stream.n_blocks
    columns = ["perplexity / original", "divergence", "perplexity / first"] if whole else ["error", "error / first"]
    titles = ["way", "novel", *columns, "block error", "moved", "CPU s"]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    texts = {novel: read_text(stream, each) for novel, each in rows.items()} if whole else {}
    first_sums: dict[str, Sums] = {}
    first_errors: dict[str, HiddenErrors] = {}
    for start in arguments.starts:
        for steps in arguments.steps:
            setting = Setting(steps, arguments.clip, relative=not arguments.absolute, pull=arguments.pull)
            count = min(arguments.blocks, stream.n_blocks)
            blocks = list(Quantization(stream, folder, STARTS[start], setting).blocks(fit, count))
            for novel in arguments.novels:
                if whole:
                    sums = sums_of(texts[novel], states(stream, texts[novel], blocks))
                    told = of_model(sums, first_sums.setdefault(novel, sums))
                else:
                    errors = hidden_errors(stream, rows[novel], blocks)
                    told = of_hidden(errors, first_errors.setdefault(novel, errors))
                way = f"{start}, {steps} steps" if steps else start
                print(f"| {way} | {novel} | {told} | {of_taught(blocks)} |", flush=True)


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS), help="(default: all)")
    parser.add_argument("--steps", nargs="+", type=int, default=[0, 50], help="of learning (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=18, help="the first so many are quantized (default: all)")
    parser.add_argument("--sequences", type=int, default=32, help="of 512 tokens to fit to (default: %(default)s)")
    parser.add_argument("--clip", action="store_true", help="learn factors of the scales, too")
    parser.add_argument("--absolute", action="store_true", help="count each token's error as it is, not relative")
    parser.add_argument("--pull", type=float, default=1.0, help="of a weight from its code (default: %(default)s)")
    default = ["persuasion", "sensesensibility"]
    parser.add_argument("--novels", nargs="+", choices=NOVELS, default=default, help="text (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=12, help="of 1,024 tokens of each (default: %(default)s)")
    arguments = parser.parse_args()
    fetch_prose()
    compare(arguments)


if __name__ == "__main__":
    main()
