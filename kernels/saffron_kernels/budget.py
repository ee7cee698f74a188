"""What the kernels' machine code is held to: limits that no kernel may break, and the figures that are checked in."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from saffron_kernels.binary import Binary
from saffron_kernels.cards import MULTIPROCESSORS, architecture
from saffron_kernels.problem import Problem, Unit

Table = Mapping[str, Mapping[str, Binary | str]]
"""By problem and architecture: the compiled kernel, or why such a card can't run it."""

RECORDED = Path(__file__).with_name("aot.json")

_TENSOR_CORES: Mapping[Unit, frozenset[str]] = {
    "fp32": frozenset(),
    "fp16_tensor": frozenset({"HMMA", "HGMMA"}),
    "int8_tensor": frozenset({"IMMA", "IGMMA"}),
    "fp8_tensor": frozenset({"QMMA", "QGMMA"}),
}
_SPILLS = frozenset({"LDL", "STL"})
_INNOCENT = frozenset({"all", "LDG", "STG"})
"""Instructions whose absence tells of nothing bad."""


def broken_limits(table: Table, problems: Mapping[str, Problem]) -> Iterator[str]:
    """A sentence for each limit that a kernel breaks, whatever is recorded."""
    shared_limits = {
        architecture(capability): limits.shared_per_block for capability, limits in MULTIPROCESSORS.items()
    }
    for name, arch, binary in _binaries(table):
        if binary.stack or _SPILLS & binary.instructions.keys():
            yield f"{name}, {arch}: spills registers ({binary.registers} of them, {binary.stack} bytes of stack)"
        if binary.shared > shared_limits[arch]:
            yield f"{name}, {arch}: {binary.shared} bytes of shared memory, where a block has {shared_limits[arch]}"
        unit = problems[name].unit
        wanted = _TENSOR_CORES[unit]
        if wanted and not wanted & binary.instructions.keys():
            yield f"{name}, {arch}: is to run on {unit}, but has no {' or '.join(sorted(wanted))}"


def grown(table: Table, recorded: Table) -> Iterator[str]:
    """A sentence for each figure that is worse than the recorded one."""
    for name, arch, binary in _binaries(table):
        before = recorded.get(name, {}).get(arch)
        if not isinstance(before, Binary):
            continue
        for figure in ("registers", "shared"):
            was, now = getattr(before, figure), getattr(binary, figure)
            if now > was:
                yield f"{name}, {arch}: {figure} {was} -> {now}"
        for lost in sorted(before.instructions.keys() - binary.instructions.keys() - _INNOCENT - _SPILLS):
            yield f"{name}, {arch}: has no {lost} any more"


def triton_version() -> str:
    """The compiler's version: another one gives other figures."""
    return version("triton")


def to_json(table: Table) -> str:
    """The text of the file that is checked in."""
    kernels = {
        name: {arch: entry if isinstance(entry, str) else asdict(entry) for arch, entry in row.items()}
        for name, row in table.items()
    }
    return json.dumps({"triton": triton_version(), "kernels": kernels}, indent=1) + "\n"


def read_recorded(path: Path = RECORDED) -> tuple[str, Table]:
    """The version of Triton that the checked-in figures are of, and the figures."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["triton"], {
        name: {arch: entry if isinstance(entry, str) else Binary(**entry) for arch, entry in row.items()}
        for name, row in content["kernels"].items()
    }


def _binaries(table: Table) -> Iterator[tuple[str, str, Binary]]:
    for name, row in table.items():
        for arch, entry in row.items():
            if isinstance(entry, Binary):
                yield name, arch, entry
