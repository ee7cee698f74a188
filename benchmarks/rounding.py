"""How much error each way of rounding to W4A16 g128 leaves at the outputs of linears, on text that it never saw.

    python benchmarks/rounding.py
    python benchmarks/rounding.py --bases gemma noisy --blocks 6 --windows 8

Hessians of a few blocks are gathered on one novel; weights are rounded with them, and the error tr(E H Eᵀ) is taken
with the Hessians of another. Printed is the geometric mean over the linears' inputs, relative to RTN with min-max
scales.

Gemma 3 270M is a dequantized Q4_K_M file, and a method could find that grid again. So there are two controls: the same
model with seeded noise of up to half a step of that grid in each weight, and a small model trained here on the novels.
"""

import argparse
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from saffron_dev.gemma import fetch_gemma
from saffron_dev.prose import fetch_prose, novel_file
from saffron_kernels.hessian import hessian_finish
from saffron_quantizer.algorithms.gptq import Factor, Order, factorize, gptq
from saffron_quantizer.algorithms.quantized import Grid, Quantized
from saffron_quantizer.algorithms.rtn import rtn
from saffron_quantizer.algorithms.scales import FOURTH_POWER, LEAST_SQUARES, MIN_MAX, Search
from saffron_quantizer.checkpoint.writer import copy_companions
from saffron_quantizer.models.calibration import BlockCalibration
from saffron_quantizer.models.stream import ModelStream, Walk

GRID = Grid(4, 128, torch.bfloat16)
Q4_BLOCK = 32
Rounded = Callable[[Tensor, Tensor], Quantized]


def by_rtn(find: Callable[[Tensor], Search]) -> Rounded:
    """RTN, with a search that may look at the Hessian."""
    return lambda W, H: rtn(W, GRID, find(H))


def by_gptq(order: Order, find: Callable[[Tensor, Factor], Search]) -> Rounded:
    """GPTQ, with a search that may look at the Hessian and its factor."""

    def rounded(W: Tensor, H: Tensor) -> Quantized:
        factor = factorize(H, order)
        return gptq(W, factor, GRID, find(H, factor)).quantized

    return rounded


SEARCHES: dict[str, Callable[[Tensor, Factor], Search]] = {
    "min-max": lambda _H, _factor: MIN_MAX,
    "squared error": lambda _H, _factor: LEAST_SQUARES,
    "times diag(H)": lambda H, _factor: Search(importance=H.diagonal()),
    "times cost": lambda _H, factor: Search(importance=factor.cost),
}
WAYS: dict[str, Rounded] = {
    "RTN, min-max": by_rtn(lambda _: MIN_MAX),
    "RTN, fourth power": by_rtn(lambda _: FOURTH_POWER),
    "RTN, squared error": by_rtn(lambda _: LEAST_SQUARES),
    "RTN, times diag(H)": by_rtn(lambda H: Search(importance=H.diagonal())),
} | {
    f"GPTQ {order.value}, {name}": by_gptq(order, search)
    for order in (Order.STATIC, Order.NONE)
    for name, search in SEARCHES.items()
}


def inputs(folder: Path, fitted: list[Tensor], held_out: list[Tensor], blocks: Sequence[int]) -> Iterator[list[Tensor]]:
    """For each input of the chosen blocks: the weights that read it, its Hessian, and that on held-out text."""
    stream = ModelStream.open(folder)
    walks = [stream.walk(fitted), stream.walk(held_out)]
    for index in range(max(blocks) + 1):
        with stream.loaded(index) as block:
            for group in stream.architecture.input_groups if index in blocks else ():
                weights = [block.get_submodule(linear).get_parameter("weight").detach() for linear in group]
                yield [torch.cat(weights).float(), *(hessian(walk, index, group[0]) for walk in walks)]
            for walk in walks:
                walk.advance(index)


def hessian(walk: Walk, index: int, linear: str) -> Tensor:
    """The Hessian of what a linear reads."""
    return hessian_finish(BlockCalibration(walk, index).gram(linear), walk.tokens)


def output_error(W: Tensor, result: Quantized, H: Tensor) -> float:
    """tr(E H Eᵀ)."""
    E = W - result.dequantize().float()
    return float(((E @ H) * E).sum())


def means(folder: Path, fitted: list[Tensor], held_out: list[Tensor], blocks: Sequence[int]) -> dict[str, float]:
    """For each way the geometric mean of its errors, relative to the first's."""
    logs = dict.fromkeys(WAYS, 0.0)
    count = 0
    for W, H, H_held_out in inputs(folder, fitted, held_out, blocks):
        errors = {name: output_error(W, way(W, H), H_held_out) for name, way in WAYS.items()}
        reference = next(iter(errors.values()))
        for name, error in errors.items():
            logs[name] += math.log(error / reference)
        count += 1
    return {name: math.exp(total / count) for name, total in logs.items()}


def with_noise(model: Path, folder: Path) -> Path:
    """The model with noise of up to half a local step, uniform, in each weight of its blocks."""
    generator = torch.Generator().manual_seed(0)
    tensors = load_file(model / "model.safetensors")
    for name, W in tensors.items():
        if name.endswith("_proj.weight"):
            parts = W.float().reshape(len(W), -1, Q4_BLOCK)
            step = (parts.amax(2, keepdim=True) - parts.amin(2, keepdim=True)) / 15
            parts += step * (torch.rand(parts.shape, generator=generator) - 0.5)
            tensors[name] = parts.reshape(W.shape).to(W.dtype)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_bytes((model / "config.json").read_bytes())
    copy_companions(model, folder)
    return folder


def trained(folder: Path, steps: int) -> Path:
    """A small Llama that has learnt to predict the bytes of novels."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    text = torch.tensor(list(novel_file("prideprejudice").read_bytes()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        starts = torch.randint(len(text) - 256, (8,))
        rows = torch.stack([text[start : start + 256] for start in starts])
        loss = model(rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"trained {steps} steps, loss {loss.item():.2f}", flush=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


BASES: dict[str, Callable[[Path, int], Path]] = {
    "gemma": lambda _folder, _steps: fetch_gemma(),
    "noisy": lambda folder, _steps: with_noise(fetch_gemma(), folder),
    "small": trained,
}


def rows_of(novel: str, encode: Callable[[str], list[int]], count: int) -> list[Tensor]:
    """The first windows of 512 tokens of a novel."""
    tokens = torch.tensor(encode(novel_file(novel).read_text()[: count * 4096])[: count * 512])
    return list(tokens.split(512))


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES), help="models (default: all)")
    parser.add_argument("--windows", type=int, default=16, help="of 512 tokens of each text (default: %(default)s)")
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 6, 11, 16], help="of Gemma (default: 1 6 11 16)")
    parser.add_argument("--steps", type=int, default=400, help="of the small model's training (default: %(default)s)")
    arguments = parser.parse_args()
    fetch_prose()
    columns = {}
    with tempfile.TemporaryDirectory() as scratch:
        for base in arguments.bases:
            folder = BASES[base](Path(scratch) / base, arguments.steps)
            encode = _bytes if base == "small" else transformers.AutoTokenizer.from_pretrained(folder).encode
            fitted, held_out = (rows_of(novel, encode, arguments.windows) for novel in ("emma", "persuasion"))
            columns[base] = means(folder, fitted, held_out, range(4) if base == "small" else arguments.blocks)
    print(f"| way | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name in WAYS:
        print(f"| {name} | {' | '.join(f'{column[name]:.3f}' for column in columns.values())} |")


def _bytes(text: str) -> list[int]:
    return list(text.encode())


if __name__ == "__main__":
    main()
