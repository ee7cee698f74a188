"""Where the time of a GPTQ run of Gemma 3 270M goes, against what this machine could do at best.

    python benchmarks/limits.py

Quantizes the model to W4A16 g128 with 32 x 512 tokens under a profiler and prints, for each part, its wall time, its
work and the time that the work takes at the speed that this machine reaches on a large product of the same type.
"""

import argparse
import cProfile
import os
import pstats
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

BEGUN = time.monotonic()

import torch  # noqa: E402 - how long the imports take is a part of what is measured
from peers import windows  # noqa: E402
from torch import Tensor  # noqa: E402

from saffron_api.candidate import CandidateSpec, Method, Scheme  # noqa: E402
from saffron_dev.gemma import fetch_gemma  # noqa: E402
from saffron_dev.prose import fetch_prose  # noqa: E402
from saffron_quantizer.checkpoint.reader import CheckpointReader  # noqa: E402
from saffron_quantizer.destination import OwnFolder  # noqa: E402
from saffron_quantizer.plan import Plan, make_plan  # noqa: E402
from saffron_quantizer.progress import ignore  # noqa: E402
from saffron_quantizer.quantize import quantize  # noqa: E402
from saffron_quantizer.quantize_request import QuantizeRequest  # noqa: E402

IMPORTED = time.monotonic()
SPEC = CandidateSpec(method=Method.GPTQ, scheme=Scheme.W4A16)
SIZE = 4096


@dataclass(frozen=True)
class Part:
    """A part of the run.

    Attributes:
        name: of the part.
        function: whose time it is, callees included, as "module:name".
        without: functions below it that are parts of their own.
        operations: what it has to do, in multiplications and additions.
        speed: operations a second that this machine reaches.
    """

    name: str
    function: str
    without: tuple[str, ...]
    operations: float
    speed: float


def speed(dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product of a type."""
    a, b = (torch.randn(SIZE, SIZE).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(3):
        begun = time.monotonic()
        a @ b
        best = min(best, time.monotonic() - begun)
    return 2 * SIZE**3 / best


def shapes(reader: CheckpointReader, plan: Plan) -> list[tuple[int, int]]:
    """Rows and columns of each stack of linears that read one input."""
    found = []
    for index in range(len(plan.blocks)):
        for group in plan.architecture.input_groups:
            sizes = [reader.entry(plan.weight(index, linear)).shape for linear in group]
            found.append((sum(rows for rows, _ in sizes), sizes[0][1]))
    return found


def parts(stacks: Sequence[tuple[int, int]], tokens: int, config: dict[str, int], length: int) -> list[Part]:
    """The parts, with their least work: linears once, causal attention once, half of each symmetric product."""
    bf16, fp32 = speed(torch.bfloat16), speed(torch.float32)
    heads = config["num_hidden_layers"] * config["num_attention_heads"] * config["head_dim"]
    forward = 2 * tokens * sum(rows * columns for rows, columns in stacks) + 2 * tokens * length * heads
    gram = tokens * sum(columns**2 for _, columns in stacks)
    factors = sum(1 / 3 * columns**3 for _, columns in stacks)
    updates = sum(rows * columns**2 for rows, columns in stacks)
    energy = sum(rows * columns**2 for rows, columns in stacks)
    return [
        Part("forward passes", "stream.py:run", (), forward, bf16),
        Part("Hessians", "calibration.py:add", (), gram, bf16),
        Part("Cholesky factors", "gptq.py:factorize", (), factors, fp32),
        Part("scales", "scales.py:find_scales", (), 0, fp32),
        Part("columns", "gptq.py:gptq", ("scales.py:find_scales",), updates, fp32),
        Part("figures for the report", "gptq.py:energy", (), energy, bf16),
        Part("reading", "reader.py:read", (), 0, fp32),
        Part("digests", "identity.py:file_hash", (), 0, fp32),
        Part("writing", "atomic.py:write_chunks", (), 0, fp32),
    ]


def seconds_of(profile: cProfile.Profile) -> Callable[[str], float]:
    """The time of a function, callees included, by "module:name"."""
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined] # not in the stubs
    found: dict[str, float] = {}
    for (path, _, name), (_, _, _, cumulative, _) in stats.items():
        key = f"{Path(path).name}:{name}"
        found[key] = found.get(key, 0) + cumulative
    return lambda key: found.get(key, 0.0)


def run(model: Path, sequences: list[Tensor]) -> tuple[float, Callable[[str], float]]:
    """Quantize under the profiler: wall time, and that of each function."""
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as scratch:
        begun = time.monotonic()
        profile.enable()
        quantize(QuantizeRequest(model, SPEC, sequences), OwnFolder(Path(scratch) / "out"), ignore)
        profile.disable()
        return time.monotonic() - begun, seconds_of(profile)


def main() -> None:
    """Print a table in Markdown."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    model = fetch_gemma()
    fetch_prose()
    reader = CheckpointReader(model)
    sequences = [torch.tensor(row) for row in windows(model, "emma", 32, 512)]
    tokens = sum(len(row) for row in sequences)
    table = parts(shapes(reader, make_plan(reader, SPEC)), tokens, reader.config, len(sequences[0]))
    total, seconds = run(model, sequences)
    print(f"CPU capability {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}\n")
    print("| part | s | GFLOP | at best, s |\n|---|---|---|---|")
    print(f"| imports | {IMPORTED - BEGUN:.1f} | | |")
    known = 0.0
    for part in table:
        own = seconds(part.function) - sum(seconds(below) for below in part.without)
        known += own
        work = f"{part.operations / 1e9:.0f} | {part.operations / part.speed:.1f}" if part.operations else " | "
        print(f"| {part.name} | {own:.1f} | {work} |")
    print(f"| all else | {total - known:.1f} | | |")
    print(f"| **whole** | {total + IMPORTED - BEGUN:.1f} | | |")


if __name__ == "__main__":
    main()
