"""Compile every kernel for cards that aren't there, and hold the machine code to a budget.

python -m saffron_kernels.aot            print the table
python -m saffron_kernels.aot --check    exit with 1 if a budget is broken or what is checked in is out of date
python -m saffron_kernels.aot --write    write kernels/saffron_kernels/aot.json and docs/kernels-tables.md
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from saffron_kernels import roofline
from saffron_kernels.binary import Binary, compile_launch
from saffron_kernels.budget import Table, broken_limits, grown, read_recorded, to_json, triton_version
from saffron_kernels.cards import MULTIPROCESSORS, Capability, architecture
from saffron_kernels.problem import Problem
from saffron_kernels.problems import problems

REPOSITORY = Path(__file__).resolve().parents[2]
RECORDED_PATH = Path("kernels/saffron_kernels/aot.json")
TABLES_PATH = Path("docs/kernels-tables.md")
WRITE = "run python -m saffron_kernels.aot --write, look at the difference and commit it"

_PROCESSES = 2
_PREFACE = """<!-- Made by `python -m saffron_kernels.aot --write`; [kernels.md](kernels.md) says how to read it. -->
# Kernels: compiled code and predicted time

## Compiled code

By Triton {version}. A kernel that spills registers has LDL and STL among its instructions.

{compiled}
## Predicted time

{title}

{predicted}"""


class Compiled(NamedTuple):
    """What became of problems.

    Attributes:
        table: what compiled, and what a card can't run.
        failures: a sentence for each kernel that did not compile.
    """

    table: dict[str, dict[str, Binary | str]]
    failures: list[str]


def compile_op(op: str) -> Compiled:
    """Compile the problems of one op for every architecture."""
    table: dict[str, dict[str, Binary | str]] = {}
    failures: list[str] = []
    for name, problem in problems().items():
        if problem.op != op:
            continue
        table[name] = {}
        for capability in MULTIPROCESSORS:
            arch = architecture(capability)
            try:
                table[name][arch] = _compiled(problem, capability)
            except Exception as error:  # noqa: BLE001 - one that does not compile hides no other
                failures.append(f"{name}, {arch}: does not compile: {type(error).__name__}: {error}")
    return Compiled(table, failures)


def _compiled(problem: Problem, capability: Capability) -> Binary | str:
    try:
        launch = problem.launch(capability)
    except NotImplementedError as reason:
        return str(reason)
    return compile_launch(launch, capability)


def compile_all(of: Mapping[str, Problem], processes: int = _PROCESSES) -> Compiled:
    """Compile all of these ops' problems, several ops at once; the table is in the problems' order."""
    table: dict[str, dict[str, Binary | str]] = {}
    failures: list[str] = []
    # An op is compiled in one process, which knows the problems that are the same code; the largest are begun first.
    ops = [op for op, _ in Counter(problem.op for problem in of.values()).most_common()]
    # Started afresh, not forked: the threads of torch do not live on in a fork.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for compiled in pool.map(compile_op, ops):
            table |= compiled.table
            failures += compiled.failures
    return Compiled({name: table[name] for name in of}, failures)


def markdown(table: Table) -> str:
    """The compiled kernels as a table."""
    lines = [
        "| problem | architecture | programs | warps | registers | shared, bytes | instructions |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for name, row in table.items():
        for arch, entry in row.items():
            if isinstance(entry, str):
                lines.append(f"| {name} | {arch} | | | | | {entry} |")
                continue
            counts = ", ".join(f"{kind} {count}" for kind, count in entry.instructions.items())
            figures = f"{entry.programs} | {entry.warps} | {entry.registers} | {entry.shared}"
            lines.append(f"| {name} | {arch} | {figures} | {counts} |")
    return "\n".join(lines) + "\n"


def generated(table: Table, of: Mapping[str, Problem]) -> dict[Path, str]:
    """The text of every generated file, by its path in the repository."""
    predicted = roofline.markdown(roofline.predictions(table, of))
    text = _PREFACE.format(
        version=triton_version(), compiled=markdown(table), title=roofline.TITLE, predicted=predicted
    )
    return {RECORDED_PATH: to_json(table), TABLES_PATH: text}


def complaints(table: Table, of: Mapping[str, Problem], repository: Path) -> list[str]:
    """A sentence for each broken limit and each figure that is worse than recorded, else for each stale file."""
    broken = list(broken_limits(table, of))
    path = repository / RECORDED_PATH
    if path.is_file():
        version, recorded = read_recorded(path)
        if version != triton_version():
            broken.append(f"{RECORDED_PATH} is of Triton {version}, but {triton_version()} is installed: {WRITE}")
        else:
            broken += grown(table, recorded)
    if broken:
        return broken
    return [
        f"{path} is out of date, though nothing is worse than it was: {WRITE}"
        for path, text in generated(table, of).items()
        if not (repository / path).is_file() or (repository / path).read_text(encoding="utf-8") != text
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m saffron_kernels.aot", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a budget is broken or a file out of date")
    parser.add_argument("--write", action="store_true", help="write the files that are checked in")
    parser.add_argument("--only", metavar="OP", help="print the problems of this op alone")
    parser.add_argument("--repository", type=Path, default=REPOSITORY, help="root of the repository (%(default)s)")
    options = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET"):
        parser.error("TRITON_INTERPRET is set: kernels are interpreted with it, never compiled")
    if options.only and (options.check or options.write):
        parser.error("--only prints; what is checked in is of all ops")
    started = time.perf_counter()
    of = {name: problem for name, problem in problems().items() if options.only in {None, problem.op}}
    table, failures = compile_all(of)
    binaries = sum(isinstance(entry, Binary) for row in table.values() for entry in row.values())
    took = f"{binaries} binaries of {len(table)} problems in {time.perf_counter() - started:.1f} s"
    if failures:
        sys.stderr.write("\n".join(failures) + "\n")
        return 1
    if options.write:
        for path, text in generated(table, of).items():
            (options.repository / path).write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path}\n")
    elif not options.check:
        sys.stdout.write(markdown(table))
    sys.stdout.write(f"{took}\n")
    found = complaints(table, of, options.repository) if options.check else list(broken_limits(table, of))
    for sentence in found:
        sys.stderr.write(f"{sentence}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
