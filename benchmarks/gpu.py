"""How long the kernels take on this machine's CUDA card, beside cuBLAS, torch and the peers that are installed.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --only w4a16_gemm

The first table has every representative problem: the kernel alone, beside the least time that the card's data sheet
allows it where the card is known. The second has the op as it is called, beside others that do the same. All is in one
process, with the card's cache emptied between runs; figures are medians, the spread from the 20th to the 80th of 100.
"""

import argparse
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch
import triton
from gpu_contests import CONTESTS, Contest
from triton.testing import do_bench

from saffron_kernels.binary import compile_launch
from saffron_kernels.cards import CARDS, Card
from saffron_kernels.launch import with_tensors_on
from saffron_kernels.problem import Problem
from saffron_kernels.problems import problems
from saffron_kernels.roofline import predict

QUANTILES = (0.5, 0.2, 0.8)


def timed(run: Callable[[], object]) -> tuple[float, str]:
    """Microseconds, and how to print them."""
    median, low, high = (1000 * milliseconds for milliseconds in do_bench(run, quantiles=QUANTILES))
    return median, f"{median:.4g} ({low:.4g}-{high:.4g})"


def of_problem(problem: Problem, capability: tuple[int, int], card: Card | None) -> str:
    """A row of the first table."""
    try:
        launch = problem.launch(capability)
    except NotImplementedError as reason:
        return f"| {problem.name} | {reason} | | | |"
    took, printed = timed(with_tensors_on(torch.device("cuda"), launch).run)
    rates = f"{problem.bytes / took / 1e3:.4g} | {problem.flops / took / 1e6:.4g}"
    predicted = None if card is None else predict(problem, card, compile_launch(launch, card.capability))
    part = "" if predicted is None else f"{predicted.seconds * 1e6 / took:.0%}"
    return f"| {problem.name} | {printed} | {rates} | {part} |"


def of_contest(contest: Contest) -> list[str]:
    """Rows of the second table: ours first, the others with how many times as long they take."""
    contestants = contest.make()
    ours, printed = timed(contestants.ours)
    rows = [f"| {contest.name} | saffron | {printed} | 1 |"]
    for name, prepare in contestants.others.items():
        # A peer that is missing or has another interface is told of, and the others still run.
        try:
            run = prepare()
            took, printed = timed(run)
        except Exception as error:  # noqa: BLE001 - whatever a peer raises
            reason = str(error).partition("\n")[0]
            rows.append(f"| {contest.name} | {name} | {type(error).__name__}: {reason} | |")
            continue
        rows.append(f"| {contest.name} | {name} | {printed} | {took / ours:.3g} |")
    return rows


def copied_bytes_per_second() -> float:
    """What this card's memory does in a copy, of which half is read and half is written."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    took, _ = timed(lambda: target.copy_(source))
    return 2 * source.numel() / took * 1e6


def installed(package: str) -> str:
    """A package with its version, for the record."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def main() -> int:
    """Print both tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="OP", help="this op alone")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write("There is no CUDA card here that torch can use, so nothing was measured.\n")
        return 1
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    card = next((card for card in CARDS if card.matches(name)), None)
    packages = ", ".join(installed(package) for package in ("vllm", "torchao"))
    print(f"{name}, compute capability {capability[0]}.{capability[1]}, CUDA {torch.version.cuda}")
    print(f"torch {torch.__version__}, triton {triton.__version__}, {packages}")
    print(f"memory: {copied_bytes_per_second() / 1e12:.3g} TB/s in a copy\n")

    print("| problem | µs | GB/s | Gop/s | of the data sheet's bound |\n|---|---:|---:|---:|---:|")
    for problem in problems().values():
        if options.only in {None, problem.op}:
            print(of_problem(problem, capability, card), flush=True)

    print("\n| op | by | µs | times saffron's |\n|---|---|---:|---:|")
    for contest in CONTESTS:
        if options.only in {None, contest.op} and capability >= contest.capability:
            print("\n".join(of_contest(contest)), flush=True)
    return 0


if __name__ == "__main__":
    with torch.inference_mode():
        sys.exit(main())
