"""Ctrl-C: one line that says what to do next, the documented exit code, and no traceback."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SAFFRON = Path(sys.executable).with_name("saffron")
GOES_ON = "interrupted; the same command goes on with what is finished"

pytestmark = pytest.mark.timeout(600)


@contextlib.contextmanager
def started(*arguments):
    """The real command in a process group of its own, as a terminal has it; what is left of the group is killed."""
    command = [str(SAFFRON), *map(str, arguments)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def interrupt(process):
    """Ctrl-C reaches every process of a terminal's group."""
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors.splitlines()


def wait_until_read(fifo, process):
    """Wait until the command waits for what a pipe has to say, and leave it waiting."""
    while process.poll() is None:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads it yet
            time.sleep(0.05)
    raise AssertionError(process.stderr.read())


WAITING = {
    "sample": ("sample", "--calibration-samples", 4, "--evaluation-samples", 8, "--out", "OUT", "--dataset", "PIPE"),
    "baseline": ("baseline", "--out", "OUT", "--data", "PIPE"),
    "quantize": ("quantize", "--method", "gptq", "--scheme", "w8a8", "--out", "OUT", "--calibration", "PIPE"),
}


@pytest.mark.parametrize("words", WAITING.values(), ids=WAITING)
def test_a_command_says_that_it_can_be_gone_on_with(words, speaking_model, tmp_path):
    places = {"PIPE": tmp_path / "pipe", "OUT": tmp_path / "out"}
    os.mkfifo(places["PIPE"])
    with started(*(places.get(word, word) for word in words), "--model", speaking_model) as process:
        held_open = wait_until_read(places["PIPE"], process)
        assert interrupt(process) == (130, [GOES_ON])
        os.close(held_open)


def test_generate_ends_its_line_and_has_nothing_to_go_on_with(speaking_model, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text((json.dumps({"text": "w9 w12"}) + "\n") * 5000)
    with started("generate", "--model", speaking_model, "--prompts", prompts, "--max-new-tokens", 100) as process:
        assert process.stdout.read(3)
        os.killpg(process.pid, signal.SIGINT)
        printed, errors = process.communicate(timeout=120)
    assert (process.returncode, errors.splitlines()[-1]) == (130, "interrupted")
    assert "Traceback" not in errors
    assert printed.endswith("\n")
