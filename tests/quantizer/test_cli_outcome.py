"""What an error means and how it is told: every error here is a real one, raised by what raises it in use.

But those of a card are torch's words, raised here.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saffron_api.failures import Failure, FailureReason, StageError
from saffron_api.results import FailureResult, Stage, decode
from saffron_quantizer.atomic import write_file
from saffron_quantizer.cli.outcome import failure_of, render


def allocate_with_torch():
    torch.empty(1 << 55, dtype=torch.uint8)


def allocate_with_python():
    bytearray(1 << 55)


def read_what_is_missing():
    Path("/no/such/file").read_bytes()


def fill_a_full_device():
    Path("/dev/full").write_text("x" * 100_000)


def card_is_full():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 GiB")


def library_of_a_card_gets_no_memory():
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def divide():
    json.loads("1") / 0


def known():
    raise StageError(Failure(reason=FailureReason.MODEL_MISSING, subject="/m"))


MEANT = {
    "torch gets no memory": (allocate_with_torch, FailureReason.OUT_OF_MEMORY, None),
    "Python gets no memory": (allocate_with_python, FailureReason.OUT_OF_MEMORY, None),
    "a file is missing": (read_what_is_missing, FailureReason.INPUT_OUTPUT, "/no/such/file"),
    "a device is full": (fill_a_full_device, FailureReason.STORAGE_FULL, "."),
    "a card gives no memory": (card_is_full, FailureReason.GPU_OUT_OF_MEMORY, None),
    "a card gives its library none": (library_of_a_card_gets_no_memory, FailureReason.GPU_OUT_OF_MEMORY, None),
    "a bug": (divide, FailureReason.INTERNAL, "ZeroDivisionError"),
    "a known failure": (known, FailureReason.MODEL_MISSING, "/m"),
}


@pytest.mark.parametrize(("work", "reason", "subject"), MEANT.values(), ids=MEANT.keys())
def test_what_is_meant_when(work, reason, subject):
    with pytest.raises(Exception) as caught:  # noqa: PT011 each row raises its own
        work()
    failure = failure_of(caught.value)
    assert (failure.reason, failure.subject) == (reason, subject)


LOOP_WITHOUT_MEMORY = """
import argparse
import sys
from pathlib import Path

import numba
import numpy as np

from saffron_api.results import Stage
from saffron_kernels.openmp import FIRST, ITEMS, compile_loop, run
from saffron_quantizer.cli.outcome import run_stage


def body(address):
    arguments = numba.carray(address, FIRST + 1, np.int64)
    arguments[ITEMS] = np.empty(arguments[FIRST], np.int64)[0]


def work(_):
    run(compile_loop(body), 1, 1 << 58)
    print("went on with what was never computed")


run_stage(Stage.QUANTIZE, argparse.Namespace(result=Path(sys.argv[1]), json=True), work)
"""


def test_a_compiled_loop_without_memory_ends_the_command(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(LOOP_WITHOUT_MEMORY)
    words = [sys.executable, "-P", str(program), str(tmp_path / "result")]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (15, ""), ended.stderr
    failure = Failure(reason=FailureReason.OUT_OF_MEMORY)
    assert decode((tmp_path / "result").read_text()) == FailureResult(failed_stage=Stage.QUANTIZE, failure=failure)


RENDERED = {
    "with what to do": (
        Failure(reason=FailureReason.MODEL_MISSING, subject="/m"),
        "",
        "error: There is no model at /m.\n  what to do: check the claim and the path (config.json must be there).",
    ),
    "with what precisely": (
        Failure(reason=FailureReason.DATASET_MALFORMED, subject="d.jsonl", line=3),
        "text is not a string",
        """error: Line 3 of the data set d.jsonl is not a JSON object with text, prompt or messages.
  why: text is not a string.
  what to do: write one object a line (JSONL).""",
    ),
    "with what a person does where a Job tries again": (
        Failure(reason=FailureReason.INPUT_OUTPUT, subject="r.json"),
        "Is a directory",
        """error: Reading or writing r.json failed.
  why: Is a directory.
  what to do: check the path, the volume and its permissions. A Job tries again by itself.""",
    ),
    "with nothing more to say": (
        Failure(reason=FailureReason.SPEC_INVALID, subject="--out=x"),
        "it is no folder",
        "error: The request is not valid: --out=x.\n  why: it is no folder.",
    ),
}


@pytest.mark.parametrize(("failure", "detail", "expected"), RENDERED.values(), ids=RENDERED.keys())
def test_a_failure_is_told(failure, detail, expected):
    assert render(failure, detail) == expected


def test_every_reason_can_be_told():
    for reason in FailureReason:
        assert render(Failure(reason=reason)).startswith("error: ")


def test_a_file_that_does_not_fit_leaves_no_part_of_it(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StageError) as caught:
            write_file(tmp_path / "big", b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (caught.value.failure.reason, caught.value.failure.need) == (FailureReason.STORAGE_FULL, 5000)
    assert list(tmp_path.iterdir()) == []
