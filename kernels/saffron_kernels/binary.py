"""Kernels compiled for a card that isn't there, and what is read out of their machine code.

Triton's own launcher specialises and compiles (an argument that 16 divides, a stride of 1 and None each make another
kernel); only the driver that tells it which card it compiles for is put in its place. Registers and the stack are read
by cuobjdump, instructions by nvdisasm, both from Triton's wheel.
"""

import math
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from saffron_kernels.cards import Capability
from saffron_kernels.launch import Launch

_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"

_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?(?P<opcode>[A-Z][\w.]*)", re.MULTILINE)
_COUNTED = re.compile(
    r"""[HIQ]G?MMA         # tensor cores: mma.sync as HMMA, IMMA and QMMA, wgmma with a G
      | LDGSTS | UTMALDG   # cp.async, and the copy engine of Hopper
      | LDG | STG | LDSM   # global memory, and tiles of matrices out of shared memory
      | RED | ATOM | ATOMG # sums in global memory
      | LDL | STL          # local memory, which is where registers are spilled to""",
    re.VERBOSE,
)
_WIDE = "128"


@dataclass(frozen=True)
class Binary:
    """One kernel, compiled.

    Attributes:
        programs: of the launch's grid.
        warps: of a program.
        registers: of a thread.
        stack: bytes of a thread: 0 where nothing is spilled.
        shared: bytes of a program's shared memory.
        instructions: how often each of the instructions that tell of the code's quality occurs in it: HMMA (mma.sync of
            float16 and bfloat16), HGMMA (the same as wgmma), LDGSTS (cp.async), LDG and STG, with ".128" where a thread
            moves 16 bytes at once; and "all".
    """

    programs: int
    warps: int
    registers: int
    stack: int
    shared: int
    instructions: Mapping[str, int]


def compile_launch(launch: Launch, capability: Capability) -> Binary:
    """Compile a launch, made with tensors of the meta device, for a card of that compute capability, and read its code.

    Raises:
        RuntimeError: Triton's interpreter is on in this process, so that there is nothing to compile.
    """
    compiled = compile_absent(launch, capability)
    cubin = compiled.asm["cubin"]
    registers, stack, instructions = _read(cubin)
    return Binary(
        programs=math.prod(launch.grid),
        warps=compiled.metadata.num_warps,
        registers=registers,
        stack=stack,
        shared=compiled.metadata.shared,
        instructions=instructions,
    )


def compile_absent(launch: Launch, capability: Capability) -> Any:  # noqa: ANN401 - Triton's CompiledKernel
    """Compile a launch for a card of that compute capability, whether or not there is one.

    Raises:
        RuntimeError: Triton's interpreter is on in this process, so that there is nothing to compile.
    """
    if triton.knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET is set in this process: kernels are interpreted here, never compiled")
    with _driver_of(capability):
        return launch.compile()


def count_instructions(assembly: str) -> dict[str, int]:
    """Count the instructions of SASS, as nvdisasm prints it, that `Binary` names."""
    counts: Counter[str] = Counter()
    for match in _INSTRUCTION.finditer(assembly):
        name, *modifiers = match["opcode"].split(".")
        counts["all"] += 1
        if _COUNTED.fullmatch(name):
            counts[f"{name}.{_WIDE}" if _WIDE in modifiers else name] += 1
    return dict(sorted(counts.items()))


class _AbsentCard:
    """Stands for the driver of a card, as far as the compiler asks it."""

    def __init__(self, capability: Capability) -> None:
        self._number = capability[0] * 10 + capability[1]

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._number, 32)

    def get_current_device(self) -> int:
        # Triton keeps compiled kernels by device, so that each capability is a device of its own.
        return self._number

    def get_current_stream(self, device: int) -> int:  # noqa: ARG002 - Triton gives it
        return 0


@contextmanager
def _driver_of(capability: Capability) -> Iterator[None]:
    # Set as a member, since Triton's own way back asks for a driver, which a machine without a card does not have.
    before = driver._active  # noqa: SLF001
    driver.set_active(_AbsentCard(capability))
    try:
        yield
    finally:
        driver._active = before  # noqa: SLF001


@cache
def _read(cubin: bytes) -> tuple[int, int, Mapping[str, int]]:
    """Registers of a thread, bytes of its stack, and the instructions."""
    text = _run_tool("cuobjdump", "--dump-resource-usage", code=cubin)
    found = re.findall(r"REG:(\d+) STACK:(\d+)", text)
    if len(found) != 1:
        raise RuntimeError(f"cuobjdump tells of {len(found)} functions where there is one:\n{text}")
    return int(found[0][0]), int(found[0][1]), count_instructions(_run_tool("nvdisasm", "-c", code=cubin))


def _run_tool(tool: str, option: str, *, code: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        return subprocess.run([_TOOLS / tool, option, file.name], check=True, capture_output=True, text=True).stdout
