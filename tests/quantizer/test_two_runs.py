"""Two runs of the same work at once: the second waits, and neither it nor a kill disturbs what is made."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from tinymodels.folders import content

from saffron_api.failures import ExitCode
from saffron_quantizer.exclusive import LOCK, exclusive

PAUSED = """
import os, signal, sys
from saffron_quantizer.cli.main import main

def pause(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGSTOP)

sys.addaudithook(pause)
main(sys.argv[2:])
"""
"""Runs a command, and stops it before a file gets its name: it is written then, and not there yet."""
QUANTIZE = ("quantize", "--method", "gptq", "--scheme", "w4a16", "--group-size", "32", "--calibration", "DATA")
CASES = {
    "quantize to a folder": ((*QUANTIZE, "--out", "HERE/out"), "model-00002-of-00003.safetensors", "HERE/out"),
    "quantize to a store": (
        (*QUANTIZE, "--store", "HERE/store", "--work", "HERE/work"),
        "model-00002-of-00003.safetensors",
        r"HERE/store/\.partial-\w{16}",
    ),
    "the end of quantize": ((*QUANTIZE, "--out", "HERE/out"), "manifest.json", "HERE/out"),
    "baseline": (("baseline", "--data", "DATA", "--out", "HERE/out"), "hidden.safetensors", "HERE/out"),
}
"""Each command, the file before which it stops, and the folder that a second one waits for."""
AS_SERVER = {**os.environ, "OMP_NUM_THREADS": "1"}
"""As many threads as the fork server has, since their number is a part of what fixes the bytes."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "gate.jsonl"
    lines = [[7 + (number * 5 + step) % 80 for step in range(12)] for number in range(8)]
    path.write_text(
        "".join(json.dumps({"conversation": str(n), "tokens": t, "score": [6, 12]}) + "\n" for n, t in enumerate(lines))
    )
    return path


def command(words, model, data, here):
    places = [word.replace("DATA", str(data)).replace("HERE", str(here)) for word in words]
    return [*places, "--model", str(model)]


@contextmanager
def stopped(before, argv):
    """A command that has stopped before a file got its name."""
    process = subprocess.Popen([sys.executable, "-c", PAUSED, before, *argv], stdout=subprocess.DEVNULL, env=AS_SERVER)
    try:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.wait()


def finish(server, argv):
    server.start(argv)
    assert server.wait()["status"] == 0


@pytest.fixture
def prepare(fork_server, speaking_model, data, tmp_path):
    """Has a run do its work undisturbed; gives its folder, an empty one, and the words for a run in that."""

    def prepared(words):
        whole, here = tmp_path / "whole", tmp_path / "here"
        for folder in (whole, here):
            folder.mkdir()
        finish(fork_server, command(words, speaking_model, data, whole))
        return whole, here, command(words, speaking_model, data, here)

    return prepared


@contextmanager
def waiting(argv, first, folder):
    """A run that has told that it waits for the first."""
    argv = [sys.executable, "-c", PAUSED, "no file", *argv]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=AS_SERVER)
    told = re.compile(rf"Process {first.pid} on \S+ is at work in {folder}: waiting for its end\.\n")
    try:
        assert any(told.search(line) for line in process.stderr)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("words", "before", "folder"), CASES.values(), ids=CASES)
def test_a_second_run_waits_for_the_first_and_reports_what_that_made(words, before, folder, prepare):
    whole, here, argv = prepare(words)
    with stopped(before, argv) as first:
        there = content(here)
        with waiting(argv, first, folder.replace("HERE", str(here))) as second:
            assert content(here) == there
            first.send_signal(signal.SIGCONT)
            assert first.wait() == 0
            second.stderr.read()
            assert second.wait() == 0
    assert content(here) == content(whole)


def test_a_second_run_of_other_settings_waits_too_and_is_then_refused(prepare):
    words, before, folder = CASES["quantize to a folder"]
    whole, here, argv = prepare(words)
    with (
        stopped(before, argv) as first,
        waiting([*argv, "--group-size", "64"], first, folder.replace("HERE", str(here))) as second,
    ):
        first.send_signal(signal.SIGCONT)
        assert first.wait() == 0
        assert "holds a checkpoint of other settings" in second.stderr.read()
        assert second.wait() == ExitCode.SPEC
    assert content(here) == content(whole)


def test_a_run_whose_first_is_killed_goes_on_with_what_that_held(prepare):
    words, before, folder = CASES["quantize to a store"]
    whole, here, argv = prepare(words)
    with stopped(before, argv) as first, waiting(argv, first, folder.replace("HERE", str(here))) as second:
        first.send_signal(signal.SIGKILL)
        second.stderr.read()
        assert second.wait() == 0
    assert content(here) == content(whole)


@pytest.mark.parametrize(("words", "before"), [case[:2] for case in CASES.values()], ids=CASES)
def test_a_run_goes_on_with_what_a_killed_one_held(words, before, fork_server, prepare):
    whole, here, argv = prepare(words)
    with stopped(before, argv) as first:
        shards = {path.stat().st_ino for path in here.rglob("model-*.safetensors")}
        first.send_signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
    finish(fork_server, argv)
    assert shards <= {path.stat().st_ino for path in here.rglob("model-*.safetensors")}
    assert content(here) == content(whole)


def test_a_folder_that_the_holder_renames_is_made_anew(tmp_path):
    folder = tmp_path / "store" / "begun"
    with exclusive(folder):
        folder.rename(tmp_path / "store" / "finished")
        with exclusive(folder):
            assert [path.name for path in folder.iterdir()] == [LOCK]
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["finished"]


def test_a_run_that_makes_nothing_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "a" / "b"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_volume_without_locks_is_told(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refuse)
    with exclusive(tmp_path):
        pass
    told = f"The volume of {tmp_path} has no file locks; see that no other run is at work in it."
    assert [record.getMessage() for record in caplog.records] == [told]
