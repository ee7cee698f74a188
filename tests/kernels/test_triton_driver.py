"""The module through which Triton asks a card's driver: built where there is a compiler, found where there is none."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HEADER = Path(sysconfig.get_paths()["include"]) / "Python.h"

pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None or not HEADER.exists(),
    reason="needs gcc and Python's headers, as the image's build does",
)

# What stands for the driver's library has the functions that the module is linked with, so that it can be loaded.
USE = """
import ctypes, os, sys
from pathlib import Path
from saffron_kernels import triton_driver
from triton.backends.nvidia.driver import CudaUtils

ctypes.CDLL(os.environ["TRITON_LIBCUDA_PATH"] + "/libcuda.so.1")
triton_driver.PRECOMPILED = Path(sys.argv[1])
triton_driver.take_precompiled()
try:
    print(CudaUtils().launch.__name__)
except RuntimeError as error:
    print(error)
"""


def run(*arguments: object, **variables: object) -> str:
    """What a new process of Python prints."""
    told = os.environ | {name: str(value) for name, value in variables.items()}
    command = [sys.executable, "-P", *map(str, arguments)]
    return subprocess.run(command, env=told, check=True, capture_output=True, text=True, timeout=600).stdout.strip()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libcuda.so.1 that has every function that could be asked for, and no code."""
    folder = tmp_path_factory.mktemp("stub") / "library"
    code = "import sys; from saffron_kernels import triton_driver as t; t.build_stub(t.Path(sys.argv[1]))"
    run("-c", code, folder)
    return folder


def test_a_module_that_was_built_before_is_taken_where_there_is_no_compiler(library: Path, tmp_path: Path):
    built = tmp_path / "built"
    run("-m", "saffron_kernels.triton_driver", built)
    assert [path.suffix for path in built.iterdir()] == [".so"]
    no_compiler = {"PATH": "/nowhere", "TRITON_LIBCUDA_PATH": library}
    assert run("-c", USE, built, TRITON_CACHE_DIR=tmp_path / "taken", **no_compiler) == "launch"
    missed = run("-c", USE, tmp_path / "absent", TRITON_CACHE_DIR=tmp_path / "empty", **no_compiler)
    assert missed.startswith("Failed to find C compiler.")


def test_a_process_that_can_load_none_says_what_is_needed(library: Path, tmp_path: Path):
    code = """
import torch
torch.cuda.is_available = lambda: True
from saffron_kernels.triton_driver import NoDriverError, load_driver
try:
    load_driver()
except NoDriverError as error:
    print(error)
"""
    told = run("-c", code, PATH="/nowhere", TRITON_LIBCUDA_PATH=library, TRITON_CACHE_DIR=tmp_path)
    assert told == (
        "Triton can't start kernels here (RuntimeError); it needs NVIDIA's libcuda.so.1, and once a C compiler with "
        "Python's headers"
    )
