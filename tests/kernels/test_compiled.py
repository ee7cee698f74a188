"""Machine code of loops: made ahead of time for any processor, found again by a process that may not compile."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from saffron_kernels.compiled import LEVELS, best_level, copy_precompiled
from saffron_kernels.precompile import keep_whole_seconds, precompile

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


def test_times_of_sources_are_cut_to_seconds(tmp_path):
    source = tmp_path / "package" / "loop.py"
    source.parent.mkdir()
    source.touch()
    os.utime(source, (1000000000.25, 1000000000.75))
    keep_whole_seconds(tmp_path)
    assert source.stat().st_mtime == 1000000000.0


RUN = """
import json
from pathlib import Path
import torch
from saffron_kernels.compiled import LOOPS, copy_precompiled
copy_precompiled(Path({folder!r}), Path({cache!r}))
from saffron_kernels.gptq_block import gptq_block
from saffron_kernels.gptq_block_cpu import _rows
from saffron_kernels.hessian import hessian
from saffron_kernels.hessian_tiles import _BLOCKS, _pack_floats
from saffron_kernels.openmp import compile_loop
from saffron_kernels.outer_tile import AVX2
ones = torch.ones(1, 3, 3)
for zero in (None, ones):
    gptq_block(ones, ones, ones, zero, torch.zeros(1, 3, dtype=torch.int32), -8, 7)
hessian(ones[0], torch.zeros(3, 3))
loops = [compile_loop(body).owner.cache_hits for body in (_pack_floats, _BLOCKS[AVX2])]
print(json.dumps([sum(_rows.stats.cache_hits.values()), sum(_rows.stats.cache_misses.values()), *loops]))
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
    assert json.loads(done.stdout) == [1, 0, 1, 1]
