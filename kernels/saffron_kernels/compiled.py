"""Loops for the CPU that numba compiles: for which processors, and where their machine code is kept.

numba keeps what it has compiled in a cache folder, and finds it there by the processor's name and features. An image
may be built on another processor than it runs on. So code is made for levels of x86-64 that have names, and a process
takes the best one that its processor has. `python -m saffron_kernels.precompile` compiles every loop for every level
ahead of time. The folder that it fills may be read-only later, where numba would not look into it; so what is there is
copied into numba's cache folder when this module is imported, which is before any loop is compiled.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import llvmlite.binding
import numba

PRECOMPILED = Path(__file__).parent / "precompiled"
"""Where `precompile` puts machine code: beside the sources, wherever they are installed."""

_V3 = ("avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")


@dataclass(frozen=True)
class Level:
    """What code is made for: a processor, and features that all processors of the level have.

    Attributes:
        cpu: LLVM's name.
        features: in LLVM's spelling.
    """

    cpu: str
    features: tuple[str, ...]

    @property
    def flags(self) -> str:
        """The features as LLVM takes them.

        It would use but half of each AVX-512 register, for processors that are slower for a while after they use more:
        none since Ice Lake, so that is turned off.
        """
        return ",".join([*(f"+{feature}" for feature in self.features), "-prefer-256-bit"])


LEVELS = (
    Level("x86-64-v4", (*_V4, "avx512vnni", "avx512bf16")),  # AMD since Zen 4, Intel's servers since Sapphire Rapids
    Level("x86-64-v4", (*_V4, "avx512vnni")),  # Cascade Lake, Ice Lake
    Level("x86-64-v4", _V4),  # Skylake's servers
    Level("x86-64-v3", _V3),  # AMD since Zen, Intel since Haswell
)
"""From the best down."""


@dataclass(frozen=True)
class AheadOfTime:
    """A loop that can be compiled ahead of time.

    Attributes:
        compile: has numba compile it, for all types that it is called with, or take it from the cache.
        needs: features without which that fails, since it has instructions of theirs by name.
    """

    compile: Callable[[], object]
    needs: tuple[str, ...] = ()


LOOPS: list[AheadOfTime] = []
"""Every loop of the modules that have been imported."""


@cache
def features() -> frozenset[str]:
    """What loops are compiled for and may rely on, in LLVM's spelling."""
    if numba.config.CPU_FEATURES is None:
        return _own_features()
    return frozenset(flag[1:] for flag in numba.config.CPU_FEATURES.split(",") if flag.startswith("+"))


def best_level(own: frozenset[str]) -> Level | None:
    """The best level for a processor of these features; None where it has none of them."""
    return next((level for level in LEVELS if own.issuperset(level.features)), None)


def _own_features() -> frozenset[str]:
    return frozenset(name for name, there in llvmlite.binding.get_host_cpu_features().items() if there)


def _choose_level() -> None:
    """Tell numba the level. Told otherwise in the environment, or on a processor of none, it is left as it is."""
    level = best_level(_own_features())
    if level is not None and numba.config.CPU_NAME is None and numba.config.CPU_FEATURES is None:
        numba.config.CPU_NAME, numba.config.CPU_FEATURES = level.cpu, level.flags


def copy_precompiled(source: Path, cache: Path) -> None:
    """Copy the folders of machine code that a cache does not have yet.

    Each appears whole, since another process may look for it, or be copying it, at the same time.
    """
    cache.mkdir(parents=True, exist_ok=True)
    for folder in source.iterdir():
        if not (cache / folder.name).exists():
            made = Path(tempfile.mkdtemp(dir=cache))
            for file in folder.iterdir():
                shutil.copyfile(file, made / file.name)
            try:
                made.rename(cache / folder.name)
            except OSError:  # the other process was first
                shutil.rmtree(made)


_choose_level()
if numba.config.CACHE_DIR and PRECOMPILED.is_dir():
    copy_precompiled(PRECOMPILED, Path(numba.config.CACHE_DIR))
