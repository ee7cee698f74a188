"""Saffron and llm-compressor side by side, on the same model and the same calibration tokens.

    python benchmarks/peers.py
    python benchmarks/peers.py --rows RTN GPTQ --repeats 1
    python benchmarks/peers.py --rows GPTQ --as-avx2

Fetches Gemma 3 270M and the prose, makes the peer's virtual environment in the cache, runs the programs in turn, each
by itself, and prints a table. Wall time and CPU time are of whole processes, from import to fsync; memory is the
kernel's own peak (`ru_maxrss`) of the largest process. One run of each goes before and is not counted: it leaves
Python's bytecode and compiled loops in caches, as an installed program has them. Ratios are taken within each repeat,
so that what slows the machine for a while slows both; shown are medians and, in brackets, the least and the largest.
With `--as-avx2` both programs do as on a processor with AVX2 alone: torch, oneDNN and compiled loops are told so.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from transformers import AutoTokenizer

from saffron_dev.gemma import fetch_gemma
from saffron_dev.paths import cache_folder
from saffron_dev.prose import fetch_prose, novel_file

PEER = "llmcompressor==0.14.0.1"
HERE = Path(__file__).resolve().parent / "peers"
BOS = 2


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: of the row.
        ours: options of `saffron quantize`.
        calibrated: whether ours reads the calibration tokens.
        theirs: the recipe of `peers/llm_compressor.py`.
    """

    name: str
    ours: tuple[str, ...]
    calibrated: bool
    theirs: str


ROWS = (
    Row("RTN", ("--method", "rtn", "--scheme", "w4a16"), calibrated=False, theirs="RTN"),
    Row("GPTQ", ("--method", "gptq", "--scheme", "w4a16"), calibrated=True, theirs="GPTQ"),
    Row("AWQ", ("--method", "awq", "--scheme", "w4a16"), calibrated=True, theirs="AWQ"),
    Row(
        "AWQ with zero points",
        ("--method", "awq", "--scheme", "w4a16", "--format", "autoawq", "--symmetric", "false"),
        calibrated=True,
        theirs="AWQ_ASYM",
    ),
    # The peer's SmoothQuant breaks this model, so ours is held against its plain W8A8.
    Row("SmoothQuant", ("--method", "smoothquant", "--scheme", "w8a8"), calibrated=True, theirs="W8A8"),
)
"""W4A16 has groups of 128 in both programs and is symmetric where nothing is said; W8A8 is int8, dynamic by token."""


AS_AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "NUMBA_CPU_NAME": "x86-64-v3",
    "NUMBA_CPU_FEATURES": "+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe",
}
"""What torch, oneDNN and numba are told so that they use no more."""


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


def sampled(rows: Sequence[Sequence[int]]) -> str:
    """Token windows as `saffron sample` writes them."""
    lines = ({"tokens": row, "score": [1, len(row)], "conversation": f"{n:064x}"} for n, row in enumerate(rows))
    return "".join(json.dumps(line) + "\n" for line in lines)


def environment() -> dict[str, str]:
    """This process's environment, in which Python keeps bytecode, in a folder that no other program changes."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(cache_folder() / "peers" / "bytecode")}


def measure(command: list[str | Path], environment: Mapping[str, str]) -> Run:
    """Run a program to its end."""
    with tempfile.TemporaryDirectory() as scratch:
        told = Path(scratch, "told.json")
        measured = [sys.executable, "-I", "-S", HERE / "measured.py", told, *command]
        ran = subprocess.run(measured, capture_output=True, text=True, check=True, env=environment)
        took = json.loads(told.read_text())
    if took.pop("code") != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{ran.stderr[-3000:]}")
    return Run(**took, output=ran.stdout)


def perplexity(folder: Path, tokens: Path) -> float:
    """Perplexity in a process of its own."""
    return float(measure([sys.executable, HERE / "perplexity.py", folder, tokens], environment()).output)


def spread(values: Sequence[float], form: str = ".1f") -> str:
    """Median (least to largest); a dash for none."""
    if not values:
        return "-"
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


@dataclass(frozen=True)
class Place:
    """Where the inputs are, and room for outputs."""

    model: Path
    scratch: Path

    @property
    def tokens(self) -> Path:
        """Calibration windows as a list of lists."""
        return self.scratch / "calibration.json"

    @property
    def sampled(self) -> Path:
        """The same as `saffron sample` writes them."""
        return self.scratch / "calibration.jsonl"

    @property
    def held_out(self) -> Path:
        """Windows of text that nothing is fitted to."""
        return self.scratch / "held-out.json"


def ours(row: Row, place: Place, out: Path) -> list[str | Path]:
    """The command that makes a row's checkpoint with Saffron."""
    calibration = ["--calibration", place.sampled] if row.calibrated else []
    saffron = Path(sys.executable).with_name("saffron")
    return [saffron, "quantize", "--model", place.model, *calibration, *row.ours, "--out", out]


def theirs(row: Row, place: Place, out: Path) -> list[str | Path]:
    """The command that makes it with llm-compressor."""
    return [peer_python(), HERE / "llm_compressor.py", place.model, place.tokens, row.theirs, out]


PROGRAMS: dict[str, Callable[[Row, Place, Path], list[str | Path]]] = {"Saffron": ours, PEER: theirs}


def compare(row: Row, place: Place, repeats: int, base: float, environment: Mapping[str, str]) -> None:
    """Run both programs in turn and print a row's lines."""
    runs: dict[str, list[Run]] = {name: [] for name in PROGRAMS}
    quality: dict[str, float] = {}
    for number in range(repeats + 1):
        for name, command in PROGRAMS.items():
            out = place.scratch / "out"
            run = measure(command(row, place, out), environment)
            if number == 0:
                quality[name] = perplexity(out, place.held_out)
            else:
                runs[name].append(run)
            shutil.rmtree(out)
    for name, own in runs.items():
        print(
            f"| {row.name} | {name} | {quality[name]:.2f} | {quality[name] / base:.3f} | "
            f"{spread([run.seconds for run in own])} | {spread([run.cpu_seconds for run in own])} | "
            f"{spread([run.peak_bytes / 1e9 for run in own], '.2f')} |"
        )
    pairs = list(zip(runs["Saffron"], runs[PEER], strict=True))
    print(
        f"| {row.name} | Saffron / peer | {quality['Saffron'] / quality[PEER]:.3f} | | "
        f"{spread([a.seconds / b.seconds for a, b in pairs], '.2f')} | "
        f"{spread([a.cpu_seconds / b.cpu_seconds for a, b in pairs], '.2f')} | "
        f"{spread([a.peak_bytes / b.peak_bytes for a, b in pairs], '.2f')} |",
        flush=True,
    )


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [row.name for row in ROWS]
    parser.add_argument("--rows", nargs="+", choices=names, default=names, help="which to run (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="counted runs of each; 0 for quality alone (default: 3)")
    parser.add_argument("--as-avx2", action="store_true", help="as on a processor with AVX2 alone (default: as it is)")
    arguments = parser.parse_args()
    told = environment() | (AS_AVX2 if arguments.as_avx2 else {})
    model = fetch_gemma()
    fetch_prose()
    with tempfile.TemporaryDirectory() as scratch:
        place = Place(model, Path(scratch))
        calibration = windows(model, "emma", 32, 512)
        place.tokens.write_text(json.dumps(calibration))
        place.sampled.write_text(sampled(calibration))
        place.held_out.write_text(json.dumps(windows(model, "persuasion", 12, 1024)))
        base = perplexity(model, place.held_out)
        capability = "AVX2, as told" if arguments.as_avx2 else torch.backends.cpu.get_cpu_capability()
        print(f"CPU capability {capability}, {torch.get_num_threads()} threads,")
        print(f"load {os.getloadavg()[0]:.1f} at the start, torch {torch.__version__}, {arguments.repeats} repeats")
        print("Base: Gemma 3 270M, dequantized Q4_K_M. Calibration: 32 x 512 tokens of Emma with <bos>.")
        print("Perplexity: 12 x 1,024 tokens of Persuasion, in transformers.\n")
        print("| method | program | perplexity | ratio to base | wall s | CPU s | peak GB |")
        print("|---|---|---|---|---|---|---|")
        print(f"| - | base (bfloat16) | {base:.2f} | 1 | | | |", flush=True)
        for row in ROWS:
            if row.name in arguments.rows:
                compare(row, place, arguments.repeats, base, told)


if __name__ == "__main__":
    main()
