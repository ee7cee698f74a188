"""`python -m saffron_kernels.precompile`: compile every loop of this package for every level of processors.

It fills the folder `precompiled` beside the sources, from where each process takes what it needs (see `compiled`). An
image runs it when it is built, so that nothing in it waits for a compiler. The processor that it runs on does not
matter, since nothing of it is executed.
"""

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import saffron_kernels
from saffron_kernels.compiled import LEVELS, LOOPS, PRECOMPILED, Level, features


def precompile(folder: Path, levels: tuple[Level, ...] = LEVELS) -> None:
    """Fill a folder, one process a level: numba compiles for one processor in each."""
    for level in levels:
        told = {"NUMBA_CPU_NAME": level.cpu, "NUMBA_CPU_FEATURES": level.flags, "NUMBA_CACHE_DIR": str(folder)}
        code = "from saffron_kernels.precompile import compile_loops; compile_loops()"
        subprocess.run([sys.executable, "-c", code], env=os.environ | told, check=True)


def compile_loops() -> None:
    """Compile every loop for the processor that numba was told in the environment."""
    for module in pkgutil.walk_packages(saffron_kernels.__path__, f"{saffron_kernels.__name__}."):
        importlib.import_module(module.name)
    for loop in LOOPS:
        if features().issuperset(loop.needs):
            loop.compile()


if __name__ == "__main__":
    precompile(PRECOMPILED)
