"""What each way of making a candidate costs on novels that nothing was fitted to or chosen on.

    python benchmarks/held_out.py
    python benchmarks/held_out.py --ways "RTN MinMax" "RTN MSE" --base noisy --novels persuasion --windows 12

Blocks are quantized by the quantizer's own code, in memory, on windows of Emma; then the model as a whole is held
against its original on other novels. Printed are the perplexity, its ratio to the original's, the divergence, and how
perplexity and divergence differ from those of the first way, token by token, with bounds of 0.95 each from a bootstrap
over windows. `--novels` says which text: choose on one, report on another.
"""

import argparse
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peers import windows
from rounding import BASES
from torch import Tensor

from saffron_api.candidate import ActOrder, CandidateSpec, Method, ScaleSearch, Scheme, Smoothing, Target
from saffron_dev.gemma import fetch_gemma
from saffron_dev.prose import NOVELS, fetch_prose
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.evaluation.bootstrap import Bounds, Vector, ratio_bounds
from saffron_quantizer.evaluation.distributions import Distributions, compare_distributions, original_distributions
from saffron_quantizer.evaluation.divergence import Scored
from saffron_quantizer.models.stream import ModelStream, Walk
from saffron_quantizer.plan import make_plan
from saffron_quantizer.progress import ignore
from saffron_quantizer.quantize_block import calibrate_block, restore, round_block

LEVEL = 0.95
WAYS: dict[str, CandidateSpec] = {
    **{
        f"RTN {search.value}": CandidateSpec(method=Method.RTN, scheme=Scheme.W4A16, scale_search=search)
        for search in ScaleSearch
    },
    **{
        f"GPTQ {order.value} {search.value}": CandidateSpec(
            method=Method.GPTQ, scheme=Scheme.W4A16, act_order=order, scale_search=search
        )
        for order in (ActOrder.STATIC, ActOrder.NONE, ActOrder.AUTO)
        for search in (ScaleSearch.HESSIAN, ScaleSearch.MSE)
    },
    "GPTQ Original": CandidateSpec(method=Method.GPTQ, scheme=Scheme.W4A16, target=Target.ORIGINAL),
    "AWQ": CandidateSpec(method=Method.AWQ, scheme=Scheme.W4A16),
    "AWQ, GPTQ": CandidateSpec(method=Method.GPTQ, scheme=Scheme.W4A16, smoothing=Smoothing.AWQ),
}


@dataclass(frozen=True)
class Text:
    """Windows of one length, and the original's distributions on them.

    Attributes:
        rows: token ids.
        targets: [N] int64, all tokens but the first of each window.
        original: its states before these.
        known: its distributions there.
    """

    rows: list[Tensor]
    targets: Tensor
    original: Scored
    known: Distributions


@dataclass(frozen=True)
class Sums:
    """Of each window, [windows]: tokens, both models' negative log-likelihoods, divergence."""

    tokens: Vector
    original: Vector
    candidate: Vector
    divergence: Vector


def read_text(stream: ModelStream, rows: list[Tensor]) -> Text:
    """Compute what an original says of windows."""
    targets = torch.cat([row[1:] for row in rows])
    original = Scored(stream, before_targets(stream.final_hidden(rows)))
    return Text(rows, targets, original, original_distributions(original, targets, progress=ignore))


def before_targets(hidden: Sequence[Tensor]) -> Tensor:
    """The states of all tokens but the last of each window."""
    return torch.cat([states[:-1] for states in hidden])


@torch.no_grad()
def quantized_states(stream: ModelStream, folder: Path, spec: CandidateSpec, fit: list[Tensor], walk: Walk) -> Tensor:
    """Quantize the model block by block, each time taking the walk past the block, as it would be stored."""
    reader = CheckpointReader(folder)
    plan = make_plan(reader, spec)
    calibration = stream.walk(fit) if spec.needs_calibration else None
    original = calibration.fork() if calibration is not None and spec.target is Target.ORIGINAL else None
    for index in range(stream.n_blocks):
        tensors = {name: reader.read(name) for name in plan.blocks[index]}
        if calibration is None:
            block = round_block(plan, index, tensors)
        else:
            with stream.loaded(index, tensors):
                block = calibrate_block(plan, index, calibration, tensors, original)
        with stream.loaded(index, restore(plan, index, block.stored)):
            walk.advance(index)
    return before_targets(stream.final(walk))


def sums_of(text: Text, states: Tensor) -> Sums:
    """Compare with the original, and add up each window."""
    candidate = Scored(text.original.stream, states)
    figures = compare_distributions(text.known, text.original, candidate, text.targets, progress=ignore)
    assert figures.divergence is not None
    lengths = [len(row) - 1 for row in text.rows]

    def add(values: Tensor) -> Vector:
        return np.array([part.sum().item() for part in values.split(lengths)])

    return Sums(
        np.array(lengths, dtype=np.float64),
        *(add(values) for values in (figures.nll_original, figures.nll_candidate, figures.divergence)),
    )


def measured(
    base: str, scratch: Path, novels: Sequence[str], ways: Sequence[str], count: int
) -> Iterator[tuple[str, Sums]]:
    """Each way in turn."""
    gemma = fetch_gemma()
    folder = BASES[base](scratch / base, 0)
    stream = ModelStream.open(folder)
    fit = [torch.tensor(row) for row in windows(gemma, "emma", 32, 512)]
    text = read_text(stream, [torch.tensor(row) for novel in novels for row in windows(gemma, novel, count, 1024)])
    for way in ways:
        yield way, sums_of(text, quantized_states(stream, folder, WAYS[way], fit, stream.walk(text.rows)))


def line(way: str, found: Sums, first: Sums) -> str:
    """A row of the table."""
    total = found.tokens.sum()
    perplexity = math.exp(found.candidate.sum() / total)
    ratio = math.exp((found.candidate - found.original).sum() / total)
    loss = ratio_bounds(found.candidate - first.candidate, found.tokens, level=LEVEL)
    relative = Bounds(*(math.exp(x) for x in (loss.value, loss.lower, loss.upper)))
    apart = ratio_bounds(found.divergence - first.divergence, found.tokens, level=LEVEL)
    return (
        f"| {way} | {perplexity:.2f} | {ratio:.3f} | {found.divergence.sum() / total:.4f} | {_told(relative, '.3f')} | "
        f"{_told(apart, '+.4f')} |"
    )


def _told(bounds: Bounds, form: str) -> str:
    return f"{bounds.value:{form}} ({bounds.lower:{form}} to {bounds.upper:{form}})"


def main() -> None:
    """Print a table in Markdown, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="what to compare (default: all)")
    bases = [base for base in BASES if base != "small"]
    parser.add_argument("--base", choices=bases, default="gemma", help="the original (default: %(default)s)")
    default = ["persuasion", "prideprejudice"]
    parser.add_argument("--novels", nargs="+", choices=NOVELS, default=default, help="text (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=12, help="of 1,024 tokens of each (default: %(default)s)")
    arguments = parser.parse_args()
    fetch_prose()
    print("| way | perplexity | ratio to original | divergence | perplexity / first | divergence - first |")
    print("|---|---|---|---|---|---|")
    first = None
    with tempfile.TemporaryDirectory() as scratch:
        for way, found in measured(arguments.base, Path(scratch), arguments.novels, arguments.ways, arguments.windows):
            first = first or found
            print(line(way, found, first), flush=True)


if __name__ == "__main__":
    main()
