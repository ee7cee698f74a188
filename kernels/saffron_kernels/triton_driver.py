"""The part of Triton that needs a C compiler: a Python module in C through which it asks the card's driver.

Triton compiles kernels by itself, but builds this module with the machine's compiler before it starts the first one. An
image has no compiler. `python -m saffron_kernels.triton_driver DIR` builds the module where there is one, and no card
is needed for that; put beside the sources, as `precompiled_triton`, each process takes it from there.
"""

import argparse
import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import triton
from triton.backends.nvidia import driver as nvidia
from triton.runtime.driver import driver

PRECOMPILED = Path(__file__).parent / "precompiled_triton"
"""Where the module is looked for."""

_SOURCE = Path(nvidia.__file__).with_name("driver.c")
_MODULE = "cuda_utils"
_LIBRARY = "libcuda.so.1"


class NoDriverError(RuntimeError):
    """Triton can't ask the card's driver; the text says why and what would help."""


def load_driver() -> None:
    """Have Triton load its module now, and not with the first kernel.

    Raises:
        NoDriverError: it can't be built or loaded.
    """
    take_precompiled()
    try:
        driver.active.get_current_target()
    except (RuntimeError, OSError, ImportError, AssertionError, subprocess.CalledProcessError) as error:
        # Triton asserts that it finds the library.
        needs = "it needs NVIDIA's libcuda.so.1, and once a C compiler with Python's headers"
        raise NoDriverError(f"Triton can't start kernels here ({type(error).__name__}); {needs}") from error


def take_precompiled() -> None:
    """Let Triton take the module that was built before, if there is one of this version of Triton and of Python."""
    built = PRECOMPILED / _built_name()
    if built.is_file():
        triton.knobs.build.impl = lambda name, *_: _built(built, name)


def _built(built: Path, name: str) -> str:
    if name != _MODULE:
        raise RuntimeError(f"Triton wants to compile {name}, which was not built before")
    return str(built)


def _built_name() -> str:
    """What a file is called that was made of this source for this Python. Triton's own key asks the machine, too."""
    return f"{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()}{sysconfig.get_config_var('EXT_SUFFIX')}"


def build(folder: Path) -> None:
    """Have Triton build its module, and put it into a folder. It sets variables of this process.

    Raises:
        RuntimeError: there is no C compiler.
    """
    with tempfile.TemporaryDirectory() as place:
        library, cache = Path(place, "library"), Path(place, "cache")
        build_stub(library)
        os.environ |= {"TRITON_LIBCUDA_PATH": str(library), "TRITON_CACHE_DIR": str(cache)}
        ctypes.CDLL(str(library / _LIBRARY))  # once it is loaded, the module finds it by its name
        nvidia.CudaUtils()
        (module,) = cache.glob(f"*/{_MODULE}*")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(module, folder / _built_name())


def build_stub(folder: Path) -> None:
    """Make a library in a new folder that the module can be linked with, in the stead of the card's driver.

    It has the names of the functions that the module asks for, and no code. A pod with a card has the real one.
    """
    folder.mkdir()
    names = sorted(set(re.findall(r"\bcu[A-Z]\w*(?=\()", _SOURCE.read_text())))
    source, library = folder / "stub.c", folder / _LIBRARY
    source.write_text("".join(f"void {name}(void) {{}}\n" for name in names))
    command = [os.environ.get("CC", "gcc"), "-shared", "-fPIC", "-w", f"-Wl,-soname,{_LIBRARY}"]
    subprocess.run([*command, "-o", str(library), str(source)], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the module through which Triton asks a card's driver.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder for it")
    build(parser.parse_args().folder)
