"""Machine code of loops: made ahead of time for any processor, found again by a process that may not compile."""

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numba
import pytest

import saffron_kernels
from saffron_kernels.code_cache import known_by_content
from saffron_kernels.compiled import LEVELS, best_level, copy_precompiled
from saffron_kernels.precompile import precompile

BEST, VNNI, AVX512, AVX2 = LEVELS


@pytest.mark.parametrize(
    ("features", "level"),
    [
        (BEST.features, BEST),
        ((*BEST.features, "amx-tile"), BEST),
        (set(BEST.features) - {"avx512bf16"}, VNNI),
        (set(BEST.features) - {"avx512vnni"}, AVX512),
        (AVX512.features, AVX512),
        (set(AVX512.features) - {"avx512vl"}, AVX2),
        (set(AVX2.features) - {"fma"}, None),
        ((), None),
    ],
)
def test_a_processor_gets_the_best_level_all_of_whose_features_it_has(features, level):
    assert best_level(frozenset(features)) == level


def test_a_level_is_told_to_llvm_in_its_spelling():
    level = replace(AVX2, features=("avx2", "fma"))
    assert level.flags == "+avx2,+fma,-prefer-256-bit"


def test_machine_code_is_copied_but_where_some_lies_already(tmp_path):
    source, cache = tmp_path / "precompiled", tmp_path / "cache"
    for name, text in (("a", "ours"), ("b", "ours")):
        (source / name).mkdir(parents=True)
        (source / name / "loop.nbc").write_text(text)
    (cache / "b").mkdir(parents=True)
    (cache / "b" / "loop.nbc").write_text("theirs")
    copy_precompiled(source, cache)
    found = {str(file.relative_to(cache)): file.read_text() for file in cache.rglob("*") if file.is_file()}
    assert found == {"a/loop.nbc": "ours", "b/loop.nbc": "theirs"}


def test_threads_that_compile_at_once_leave_numba_as_it_was():
    before = numba.config.CACHE_LOCATOR_CLASSES
    entered, left = threading.Event(), threading.Event()

    def compile_elsewhere():
        with known_by_content():
            entered.set()
            left.wait()

    with known_by_content():
        other = threading.Thread(target=compile_elsewhere)
        other.start()
        entered.wait(0.2)
    left.set()
    other.join()
    assert before == numba.config.CACHE_LOCATOR_CLASSES


USE = """
import json
from saffron_kernels.attention_bfloat16 import _pack
from saffron_kernels.fp8_gemm_cpu import _rows
from saffron_kernels.openmp import compile_loop
print(json.dumps([compile_loop(body).owner.cache_hits for body in (_pack, _rows)]))
"""


def test_machine_code_is_made_again_when_any_source_has_changed_and_only_then(tmp_path):
    package, tile = tmp_path / "saffron_kernels", tmp_path / "saffron_kernels" / "outer_tile.py"
    shutil.copytree(Path(*saffron_kernels.__path__), package, ignore=shutil.ignore_patterns("__pycache__"))

    def hits():
        told = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-P", "-c", USE]
        done = subprocess.run(command, env=os.environ | told, check=True, capture_output=True, text=True)
        return json.loads(done.stdout)

    assert hits() == [0, 0]
    assert hits() == [1, 1]
    os.utime(tile, (1000000000.25, 1000000000.75))
    os.utime(package / "attention_bfloat16.py", (1000000000.25, 1000000000.75))
    assert hits() == [1, 1]
    tile.write_text(tile.read_text() + "# Another line.\n")
    assert hits() == [0, 0]
    assert hits() == [1, 1]


RUN = """
import json
from pathlib import Path
import torch
from saffron_kernels.compiled import LOOPS, copy_precompiled
copy_precompiled(Path({folder!r}), Path({cache!r}))
from saffron_kernels import openmp
compiled, compile_loop = {{}}, openmp.compile_loop
def remembered(body):
    loop = compiled[body] = compile_loop(body)
    return loop
openmp.compile_loop = remembered
from saffron_kernels.fp8_gemm import fp8_gemm
from saffron_kernels.gptq_block import gptq_block
from saffron_kernels.hessian import hessian
from saffron_kernels.quantize_pack import Layout, quantize_pack
from saffron_kernels.quantize_per_token import quantize_per_token_fp8
from saffron_kernels.scale_search import scale_search
from saffron_kernels.w4a16_gemm import repack_w4a16, w4a16_gemm
from saffron_kernels.w8a8_gemm import w8a8_linear
ones = torch.ones(1, 3, 3)
for zero in (None, ones):
    gptq_block(ones, ones, ones, zero, torch.zeros(1, 3, dtype=torch.int32), -8, 7)
hessian(ones[0], torch.zeros(3, 3))
scale = scale_search(torch.ones(8, 3), (1.0,), bits=4, group_size=None, scale_dtype=torch.float32).scale
quantize_pack(torch.ones(8, 3), scale, None, 4, Layout.AUTOAWQ)
for tokens in (1, 3, 40):
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(tokens, 128, dtype=dtype)
        for groups in (1, 2, 4):
            scale, words = torch.ones(8, groups, dtype=dtype), torch.zeros(8, 16, dtype=torch.int32)
            for zero in (None, torch.zeros(1, groups, dtype=torch.int32)):
                w4a16_gemm(x, repack_w4a16(words, scale, zero, 128), 128 // groups)
        w8a8_linear(x, torch.ones(8, 128, dtype=torch.int8), torch.ones(8, 1))
        ones_fp8 = torch.ones(8, 128).to(torch.float8_e4m3fn)
        fp8_gemm(*quantize_per_token_fp8(x), ones_fp8, torch.ones(8, 1), out_dtype=dtype)
print(json.dumps([loop.owner.cache_hits for loop in compiled.values()]))
"""


def test_a_process_finds_what_was_compiled_for_its_processor_and_compiles_nothing(tmp_path):
    # A level that is below this processor's own, so that it is another one than numba would compile for.
    folder, cache = tmp_path / "precompiled", tmp_path / "cache"
    precompile(folder, (AVX2,))
    told = {"NUMBA_CPU_NAME": AVX2.cpu, "NUMBA_CPU_FEATURES": AVX2.flags, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(folder=str(folder), cache=str(cache))],
        env=os.environ | told,
        check=True,
        capture_output=True,
        text=True,
    )
    hits = json.loads(done.stdout)
    assert len(hits) > 10
    assert hits == [1] * len(hits)
