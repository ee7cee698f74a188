"""The real command in its own process: the whole way on a tiny model, and what each bad input ends in."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from saffron_api.failures import ExitCode, FailureReason
from saffron_api.results import EvaluateResult, FailureResult, QuantizeResult, SampleResult, decode

SAFFRON = Path(sys.executable).with_name("saffron")
DOWN = "model.layers.1.mlp.down_proj.weight"

pytestmark = pytest.mark.timeout(600)


def saffron(*arguments, **options):
    command = [str(SAFFRON), *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, **options)


def write_data(path, count):
    texts = (f"w{7 + number % 80} w{8 + number // 80} w{9 + number % 60} w11 w12" for number in range(count))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def succeed(*arguments):
    done = saffron(*arguments)
    assert (done.returncode, done.stderr if done.returncode else "") == (0, "")
    return done


def test_the_whole_way(speaking_model, tmp_path):
    data = write_data(tmp_path / "prompts.jsonl", 60)
    model = ("--model", speaking_model)
    inspected = json.loads(
        succeed("inspect", *model, "--json", "--candidate", '{"name":"a","method":"GPTQ","scheme":"W8A8"}').stdout
    )
    known = (*model, "--model-digest", inspected["modelDigest"])
    sizes = ("--calibration-samples", 10, "--evaluation-samples", 32)
    succeed("sample", *known, "--dataset", data, *sizes, "--max-tokens", 16, "--out", tmp_path / "s", "--json")
    gate = ("--data", tmp_path / "s" / "gate.jsonl")
    succeed("baseline", *known, *gate, "--out", tmp_path / "base")
    for name, method in (("gptq", "gptq"), ("rtn", "RTN")):
        quantized = succeed(
            *("quantize", *known, "--calibration", tmp_path / "s" / "calibration.jsonl"),
            *("--method", method, "--scheme", "w8a8", "--out", tmp_path / name, "--json"),
        )
        assert decode(quantized.stdout).bytes == inspected["predicted"][0]["bytes"]
        compared = ("--original", speaking_model, "--candidate", tmp_path / name, *gate)
        evaluated = saffron(
            *("evaluate", *compared, "--baseline", tmp_path / "base", "--json"),
            *("--out", tmp_path / f"{name}.json", "--result", tmp_path / f"{name}.result"),
        )
        assert (evaluated.returncode, evaluated.stdout.strip()) == (0, (tmp_path / f"{name}.result").read_text())
        assert isinstance(decode(evaluated.stdout), EvaluateResult)
    assert stat.S_IMODE((tmp_path / "rtn.json").stat().st_mode) == 0o600
    _judge(tmp_path, compared)
    table = succeed("compare", tmp_path / "gptq.json", tmp_path / "rtn.json").stdout.splitlines()
    assert [line.split()[0] for line in table] == ["candidate", "GPTQ", "RTN"]


def _judge(tmp_path, compared):
    """A report with the same settings is judged anew in no time and by any gates; the verdict may be the exit code."""
    for limit, verdict, code in ((100, "Pass", ExitCode.DONE), (1, "Fail", ExitCode.VERDICT_FAIL)):
        (tmp_path / "gates.yaml").write_text(f"perplexityRatio: {{max: {limit}}}\ncheckpointBytesRatio: {{max: 0.1}}\n")
        if verdict == "Pass":
            (tmp_path / "gates.yaml").write_text(f"perplexityRatio: {{max: {limit}}}\n")
        done = saffron(
            *("evaluate", *compared, "--out", tmp_path / "rtn.json"),
            *("--gates", tmp_path / "gates.yaml", "--exit-verdict"),
        )
        assert (done.returncode, f"verdict: {verdict}" in done.stdout) == (code, True)
        assert "comparing tokens" not in done.stderr


def test_the_store_names_a_checkpoint_by_its_digest_and_a_second_run_only_reports(speaking_model, tmp_path):
    arguments = (
        *("quantize", "--model", speaking_model, "--method", "rtn", "--scheme", "w8a8"),
        *("--store", tmp_path / "store", "--work", tmp_path / "work", "--json"),
    )
    first, second = succeed(*arguments), succeed(*arguments)
    result = decode(first.stdout)
    assert isinstance(result, QuantizeResult)
    assert [path.name for path in (tmp_path / "store").iterdir()] == [result.checkpoint_digest]
    assert (second.stdout, "quantizing" in second.stderr) == (first.stdout, False)
    other = decode(succeed(*arguments, "--ignore", "*.0.mlp.down_proj").stdout)
    assert isinstance(other, QuantizeResult)
    assert (other.modules, other.checkpoint_digest == result.checkpoint_digest) == (result.modules - 1, False)


def test_a_candidate_is_raised_until_the_limits_hold(speaking_model, tmp_path):
    """No rounding at all keeps this limit, so all is raised that fits."""
    selection = write_data(tmp_path / "selection.jsonl", 8)
    (tmp_path / "gates.yaml").write_text("klDivergence: {max: 1.0e-9}\n")
    done = succeed(
        *("quantize", "--model", speaking_model, "--method", "rtn", "--scheme", "w8a8", "--out", tmp_path / "out"),
        *("--escalate-max-bytes-ratio", 0.9, "--selection", selection, "--gates", tmp_path / "gates.yaml", "--json"),
    )
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert 0 < len(manifest["raised"]) < 8
    assert {each["to"] for each in manifest["raised"]} == {"original"}
    assert manifest["rounds"][-1]["bytes"] == decode(done.stdout).bytes
    assert decode(done.stdout).modules < 14


def remove_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors[DOWN]
    save_file(tensors, folder / "model.safetensors")


def put_nan(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors[DOWN][3, 5] = float("nan")
    save_file(tensors, folder / "model.safetensors")


def lead_nowhere(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../blobs/0a1b")


def make_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def edit_config(**fields):
    def edit(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))

    return edit


BAD_MODELS = {
    "a model that is missing": (shutil.rmtree, 12, FailureReason.MODEL_MISSING, "There is no model at "),
    "a pickle": (make_pickle, 12, FailureReason.MODEL_UNSAFE, "pytorch_model.bin, a pickle, which can run code"),
    "a model that lacks a tensor": (remove_tensor, 12, FailureReason.MODEL_INCOMPLETE, f"The model lacks {DOWN}"),
    "a link to weights that were not copied": (
        lead_nowhere,
        12,
        FailureReason.MODEL_INCOMPLETE,
        "The model lacks model.safetensors",
    ),
    "a model with NaN": (put_nan, 12, FailureReason.MODEL_NOT_FINITE, f"{DOWN} holds NaN or infinity"),
    "an architecture that we do not know": (
        edit_config(architectures=["OtherForCausalLM"], model_type="other"),
        16,
        FailureReason.ARCHITECTURE_UNSUPPORTED,
        "is not supported",
    ),
}


@pytest.mark.parametrize("case", BAD_MODELS.values(), ids=BAD_MODELS.keys())
def test_quantizing(case, speaking_model, tmp_path):
    damage, code, reason, words = case
    folder = tmp_path / "model"
    shutil.copytree(speaking_model, folder)
    damage(folder)
    done = saffron(
        *("quantize", "--model", folder, "--method", "rtn", "--scheme", "w8a8"),
        *("--out", tmp_path / "out", "--result", tmp_path / "result"),
    )
    told = decode((tmp_path / "result").read_text())
    assert isinstance(told, FailureResult)
    assert (done.returncode, told.failed_stage, told.failure.reason) == (code, "quantize", reason)
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert words in error
    assert done.stderr.splitlines()[-1].startswith("  what to do: ")
    assert not (tmp_path / "out" / "manifest.json").exists()


BAD_DATA = {
    "is missing": (None, FailureReason.DATASET_MISSING, "There is no data set at "),
    "is empty": ("", FailureReason.DATASET_EMPTY, "it needs at least 14 conversations"),
    "is too short": (
        '{"text": "w8 w9"}\n',
        FailureReason.TOO_FEW_CONVERSATIONS,
        "has 1 usable conversations and 14 are",
    ),
    "is not JSONL": ("id,text\n1,secret\n", FailureReason.DATASET_MALFORMED, "Line 1 of the data set"),
}


@pytest.mark.parametrize(("text", "reason", "words"), BAD_DATA.values(), ids=BAD_DATA.keys())
def test_sampling_from_a_data_set_that(text, reason, words, speaking_model, tmp_path):
    data = tmp_path / "data.jsonl"
    if text is not None:
        data.write_text(text)
    done = saffron(
        *("sample", "--model", speaking_model, "--dataset", data, "--out", tmp_path / "out"),
        *("--calibration-samples", 4, "--evaluation-samples", 8, "--result", tmp_path / "result"),
    )
    told = (tmp_path / "result").read_text()
    assert (done.returncode, decode(told).failure.reason) == (11, reason)
    assert words in done.stderr
    assert "  what to do: " in done.stderr
    assert "secret" not in done.stderr + done.stdout + told
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def small_volume(tmp_path):
    """A file system of 128 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "saffron-test", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def full(done, result):
    told = decode(result.read_text())
    assert (done.returncode, told.failure.reason) == (13, FailureReason.STORAGE_FULL)
    assert "bytes are needed and" in done.stderr
    assert "enlarge the claim or delete checkpoints" in done.stderr


def test_a_sample_that_does_not_fit_leaves_nothing_that_looks_whole(speaking_model, small_volume, tmp_path):
    data = write_data(tmp_path / "d.jsonl", 3000)
    sizes = ("--calibration-samples", 1000, "--evaluation-samples", 1000)
    out = small_volume / "out"
    done = saffron(
        *("sample", "--model", speaking_model, "--dataset", data, *sizes, "--out", out),
        *("--result", tmp_path / "result"),
    )
    full(done, tmp_path / "result")
    assert [path.name for path in out.iterdir() if path.name == "manifest.json" or "partial" in path.name] == []


def test_data_that_are_not_read_are_told_of(speaking_model, tmp_path):
    words = ("--model", speaking_model, "--method", "rtn", "--scheme", "w8a8", "--calibration", tmp_path / "none.jsonl")
    done = succeed("quantize", *words, "--out", tmp_path / "out")
    told = "note: --calibration is not read, for --method RTN --scheme W8A8 needs no data"
    assert told in done.stderr.splitlines()


def test_a_report_that_can_not_be_written_is_refused_before_any_work(speaking_model, tmp_path):
    done = saffron(
        *("evaluate", "--original", speaking_model, "--candidate", tmp_path / "none", "--data", tmp_path / "none"),
        *("--out", "/proc/report.json"),
    )
    assert done.returncode == 1
    assert "Reading or writing /proc/.report.json.partial failed" in done.stderr


def test_why_a_folder_is_no_place_for_a_checkpoint_is_told(speaking_model, tmp_path):
    words = ("quantize", "--model", speaking_model, "--method", "rtn", "--scheme")
    succeed(*words, "w8a8", "--out", tmp_path / "taken")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").touch()
    for name, why in (
        ("taken", "it holds a checkpoint of other settings or inputs; choose another folder"),
        ("foreign", "it holds files that are not ours; choose a folder that does not exist yet"),
    ):
        done = saffron(*words, "w8a16", "--out", tmp_path / name)
        assert (done.returncode, f"  why: {why}." in done.stderr.splitlines()) == (10, True), done.stderr


def test_a_checkpoint_that_does_not_fit_is_refused_before_any_work(speaking_model, small_volume, tmp_path):
    done = saffron(
        *("quantize", "--model", speaking_model, "--method", "rtn", "--scheme", "w8a8"),
        *("--out", small_volume / "out", "--result", tmp_path / "result"),
    )
    full(done, tmp_path / "result")
    assert not (small_volume / "out").exists()


def test_a_baseline_that_does_not_fit_leaves_nothing_that_looks_whole(speaking_model, small_volume, tmp_path):
    data = write_data(tmp_path / "d.jsonl", 400)
    done = saffron(
        *("baseline", "--model", speaking_model, "--data", data, "--out", small_volume / "base"),
        *("--result", tmp_path / "result"),
    )
    full(done, tmp_path / "result")
    assert list((small_volume / "base").iterdir()) == []


def test_sigterm_ends_it_promptly(speaking_model, tmp_path):
    data = write_data(tmp_path / "d.jsonl", 60_000)
    sizes = ("--calibration-samples", "30000", "--evaluation-samples", "20000")
    command = [str(SAFFRON), "sample", "--model", str(speaking_model), "--dataset", str(data), *sizes]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors.splitlines()[-1]) == (
        143,
        "ended by SIGTERM; the same command goes on with what is finished",
    )
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_result_that_fits_a_termination_message_is_written_into_the_mounted_file(speaking_model, tmp_path):
    # The kubelet mounts a file: it must be written in place, not replaced.
    message = tmp_path / "termination-log"
    message.touch()
    inode = message.stat().st_ino
    data = write_data(tmp_path / "d.jsonl", 20)
    succeed(
        *("sample", "--model", speaking_model, "--dataset", data, "--calibration-samples", 4),
        *("--evaluation-samples", 8, "--out", tmp_path / "out", "--result", message),
    )
    assert isinstance(decode(message.read_text()), SampleResult)
    assert message.stat().st_ino == inode
