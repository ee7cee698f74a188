"""What compiled loops may use of this processor."""

from functools import cache

from numba.core.registry import cpu_target


@cache
def features() -> frozenset[str]:
    """LLVM's names of the instruction sets that numba compiles for, as `avx512vnni`.

    They are the processor's, unless NUMBA_CPU_NAME and NUMBA_CPU_FEATURES name another one.
    """
    _, _, listed = cpu_target.target_context.codegen().magic_tuple()
    return frozenset(name[1:] for name in listed.split(",") if name.startswith("+"))
