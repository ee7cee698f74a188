"""Kernels made to be compiled, not run, and what the compiler made of them: printed as JSON for `test_binary.py`.

It is a program of its own, since `triton.jit` makes nothing that could be compiled where the interpreter is on.
"""

import json
import re
import sys
from dataclasses import asdict, dataclass, replace

import torch
import triton
import triton.language as tl
from triton.runtime.driver import driver

from saffron_kernels.binary import compile_absent, compile_launch
from saffron_kernels.launch import Launch
from saffron_kernels.problems import problems


@triton.jit
def scaled(x, y, given, n, stride, factor, BLOCK: tl.constexpr):  # noqa: PLR0917 - a kernel's parameters
    at = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)) * stride
    value = tl.load(x + at, mask=at < n).to(tl.float32)
    if given is not None:
        value *= tl.load(given)
    tl.store(y + at, value * factor, mask=at < n)


@triton.jit
def product(a, b, c, K, stride, BLOCK: tl.constexpr):  # noqa: PLR0917 - as above
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    sums = tl.zeros((BLOCK, BLOCK), tl.float32)
    for begin in range(0, K, 64):
        inner = begin + tl.arange(0, 64)
        left = tl.load(a + rows[:, None] * stride + inner[None, :])
        right = tl.load(b + inner[:, None] * stride + columns[None, :])
        sums = tl.dot(left, right, sums)
    tl.store(c + rows[:, None] * stride + columns[None, :], sums)


@dataclass(frozen=True)
class InCardMemory:
    """What a launch sees of a tensor that lies in a card's memory: 512 divides what the allocator gives out."""

    dtype: torch.dtype

    def data_ptr(self) -> int:
        return 0x7F12_3400_0000


def vector(size: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(size, dtype=dtype, device="meta")


def scaling(x: object, stride: int = 1, **changes: object) -> Launch:
    arguments = {"x": x, "y": x, "given": None, "n": 4096, "stride": stride, "factor": 0.5, "BLOCK": 1024}
    return Launch(scaled, (4,), arguments | changes)


def multiplying(block: int, stages: int, warps: int = 4) -> Launch:
    matrix = torch.empty(4096, 4096, dtype=torch.float16, device="meta")
    arguments = {"a": matrix, "b": matrix, "c": matrix, "K": 4096, "stride": 4096, "BLOCK": block}
    return Launch(product, (4096 // block, 4096 // block), arguments, num_warps=warps, num_stages=stages)


def specialisation(launch: Launch) -> object:
    """Types, attributes and constants that Triton compiled a launch with, as it would be started on an A100."""
    seen: list[object] = []
    kernel = launch.kernel

    class Listening:
        def warmup(self, **keywords: object) -> object:
            compiled = kernel.warmup(**keywords)
            attributes = {kernel.arg_names[place[0]]: attrs for place, attrs in compiled.src.attrs.items() if attrs}
            constants = {kernel.arg_names[place[0]]: value for place, value in compiled.src.constants.items()}
            seen.append({"types": compiled.src.signature, "attributes": attributes, "constants": constants})
            return compiled

    compile_launch(Launch(Listening(), launch.grid, launch.arguments), (8, 0))
    return seen[0]


def raised(launch: Launch) -> str:
    try:
        compile_launch(launch, (8, 0))
    except Exception as error:  # noqa: BLE001 - whatever Triton raises
        return type(error).__name__
    return "nothing"


def float_operations() -> dict[str, list[str]]:
    """Of one kernel of each op: its operations in PTX that are rounded otherwise than IEEE's, or may be."""
    first = {("sum of " in name, problem.op): problem for name, problem in reversed(problems().items())}
    launches = {problem.name: problem.launch((9, 0)) for problem in first.values()}
    searching = next(launch for name, launch in launches.items() if name.startswith("scale_search "))
    rooted = replace(searching, arguments={**searching.arguments, "exponent": 2.5})
    found = {}
    for name, launch in [*launches.items(), ("scale_search by a power of 2.5", rooted)]:
        ptx = compile_absent(launch, (9, 0)).asm["ptx"]
        operations = re.findall(r"^\s*(?:@\S+\s+)?((?:div|fma|rcp|rsqrt|sqrt|ex2)\.\S*\.?f\d+)", ptx, re.MULTILINE)
        found[name] = sorted(set(operations))
    return found


def main() -> None:
    before = driver._active
    aligned, shifted = vector(4096), vector(4097)[1:]
    launches = {
        "aligned": (scaling(aligned), (8, 0)),
        "shifted": (scaling(shifted), (8, 0)),
        "strided": (scaling(aligned, stride=2), (8, 0)),
        "product on sm_80": (multiplying(64, stages=3), (8, 0)),
        "product on sm_89": (multiplying(64, stages=3), (8, 9)),
        "product on sm_90": (multiplying(64, stages=3), (9, 0)),
        "spilling": (multiplying(64, stages=1, warps=1), (8, 0)),
    }
    result = {
        "binaries": {name: asdict(compile_launch(*launch)) for name, launch in launches.items()},
        "meta": specialisation(scaling(aligned)),
        "card": specialisation(scaling(InCardMemory(torch.bfloat16))),
        "raised": raised(scaling(aligned, BLOCK=1000)),
        "float operations": float_operations(),
        "driver is as before": driver._active is before,
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
