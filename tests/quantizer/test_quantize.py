"""The Quantize stage: what it writes, what it predicts and what it refuses."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tinymodels.checkpoints import checkpoint_of, sequences

from saffron_api.candidate import CandidateSpec
from saffron_api.failures import Failure, FailureReason, StageError
from saffron_quantizer.checkpoint.identity import model_digest
from saffron_quantizer.checkpoint.manifest import read_manifest, write_manifest
from saffron_quantizer.destination import OwnFolder, Store
from saffron_quantizer.inspect import inspect_model
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.partial import open_partial
from saffron_quantizer.progress import Progress
from saffron_quantizer.quantize_request import QuantizeRequest

GPTQ = CandidateSpec(method="GPTQ", scheme="W4A16", group_size=32)
SPECS = {
    "RTN to W4A16": CandidateSpec(method="RTN", scheme="W4A16", group_size=64),
    "RTN to W8A8": CandidateSpec(method="RTN", scheme="W8A8"),
    "GPTQ to W4A16": GPTQ,
    "GPTQ to W8A8": CandidateSpec(method="GPTQ", scheme="W8A8"),
    "GPTQ to W8A16": CandidateSpec(method="GPTQ", scheme="W8A16"),
    "RTN to FP8": CandidateSpec(method="RTN", scheme="FP8"),
    "RTN to static FP8": CandidateSpec(method="RTN", scheme="FP8Static", kv_cache="FP8"),
    "GPTQ with an FP8 cache": CandidateSpec(method="GPTQ", scheme="W4A16", group_size=32, kv_cache="FP8"),
    "GPTQ to AutoAWQ": CandidateSpec(method="GPTQ", scheme="W4A16", group_size=32, format="AutoAWQ", symmetric=False),
    "GPTQ to GPTQ's layout": CandidateSpec(method="GPTQ", scheme="W4A16", group_size=32, format="GPTQ"),
    "RTN by activity": CandidateSpec(method="RTN", scheme="W4A16", group_size=32, scale_search="Hessian"),
    "GPTQ in order": CandidateSpec(
        method="GPTQ", scheme="W4A16", group_size=32, act_order="None", scale_search="MinMax"
    ),
    "GPTQ towards the original": CandidateSpec(method="GPTQ", scheme="W4A16", group_size=32, target="Original"),
}


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "manifest.json"}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_predicted_bytes_are_the_written_ones(tiny_model, tmp_path, spec, tied):
    model = tiny_model("Qwen2", tie_word_embeddings=tied, dtype=torch.bfloat16)
    result = checkpoint_of(model, spec, tmp_path / "out")
    written = {}
    for shard in (tmp_path / "out").glob("*.safetensors"):
        written |= load_file(shard)
    on_disk = sum(tensor.numel() * tensor.dtype.itemsize for tensor in written.values())
    (predicted,) = inspect_model(model, [("it", spec)], hash_cache=None).predicted
    assert (predicted.name, predicted.bytes, result.bytes) == ("it", on_disk, on_disk)
    assert ("lm_head.weight" in written) == (not tied)


def test_a_checkpoint_has_its_files_digest_and_figures(tiny_model, tmp_path):
    told = []
    result = checkpoint_of(tiny_model("Llama", dtype=torch.bfloat16), GPTQ, tmp_path / "out", progress=told.append)
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
    ]
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o644}
    assert out.stat().st_mode & 0o777 == 0o755
    assert result.checkpoint_digest == model_digest(out, hash_cache=None)
    assert sorted(read_manifest(out)["files"]) == sorted(set(content(out)))
    assert (result.modules, result.max_damping, result.dead_columns) == (14, 0.01, 0)
    assert told == [Progress("quantizing blocks", done, 2) for done in (1, 2)]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("RTN to W4A16", (False, None, None, None, "MSE")),
        ("RTN by activity", (False, None, None, None, "Hessian")),
        ("GPTQ to W4A16", (True, 0.01, 0, {"Static", "None"}, "Hessian")),
        ("GPTQ in order", (True, 0.01, 0, {"None"}, "MinMax")),
        ("GPTQ towards the original", (True, 0.01, 0, {"Static"}, "Hessian")),
    ],
)
def test_the_manifest_tells_what_was_learnt_of_each_linear(tiny_model, tmp_path, name, told):
    checkpoint_of(tiny_model("Llama", dtype=torch.bfloat16), SPECS[name], tmp_path / "out")
    for layer in read_manifest(tmp_path / "out")["layers"]:
        linears = {linear.pop("name"): linear for linear in layer["linears"]}
        assert sorted(linears) == [
            *(f"mlp.{part}_proj" for part in ("down", "gate", "up")),
            *(f"self_attn.{part}_proj" for part in ("k", "o", "q", "v")),
        ]
        measured, damping, dead, orders, search = told
        for linear in linears.values():
            error, order = linear.pop("relative_error"), linear.pop("act_order")
            channels = linear.pop("largest_channel_ratio")
            assert linear == {"damping": damping, "dead_columns": dead, "scale_search": search, "all_tokens": False}
            assert (order in orders) if orders else order is None
            # Random weights of 4 bits: an error of some hundredths at most, and never none.
            assert (0 < error < 0.05) if measured else error is None
            # Nothing is known of the inputs of a method that reads none.
            assert (channels >= 1) if measured or search == "Hessian" else channels is None


def test_a_store_names_the_checkpoint_by_its_digest_and_keeps_no_partial_work(tiny_model, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    result = checkpoint_of(tiny_model(), GPTQ, Store(tmp_path / "store"), work=work)
    assert [path.name for path in (tmp_path / "store").iterdir()] == [result.checkpoint_digest]
    begun = time.monotonic()
    assert checkpoint_of(tiny_model(), GPTQ, Store(tmp_path / "store"), work=work) == result
    assert time.monotonic() - begun < 1  # reported, not made again
    shutil.rmtree(work)
    work.mkdir()
    again = checkpoint_of(tiny_model(), GPTQ, Store(tmp_path / "store"), work=work)
    assert again.checkpoint_digest == result.checkpoint_digest
    assert [path.name for path in (tmp_path / "store").iterdir()] == [result.checkpoint_digest]


def test_a_result_that_is_remembered_of_another_request_is_not_told_of_this_one(tiny_model, tmp_path):
    work, store = tmp_path / "work", Store(tmp_path / "store")
    work.mkdir()
    first = checkpoint_of(tiny_model(), SPECS["RTN to W8A8"], store, work=work)
    others = [
        checkpoint_of(tiny_model(), SPECS["RTN to FP8"], store, work=work),
        checkpoint_of(tiny_model("Qwen2"), SPECS["RTN to FP8"], store, work=work),
        checkpoint_of(tiny_model("Qwen2"), GPTQ, store, work=work),
        checkpoint_of(tiny_model("Qwen2"), GPTQ, store, sequences(count=3), work=work),
    ]
    digests = {each.checkpoint_digest for each in (first, *others)}
    assert {path.name for path in (tmp_path / "store").iterdir()} == digests
    assert len(digests) == 5


def test_a_finished_folder_is_reported_and_another_request_for_it_refused(tiny_model, tmp_path):
    result = checkpoint_of(tiny_model(), GPTQ, tmp_path / "out")
    before = content(tmp_path / "out")
    assert checkpoint_of(tiny_model(), GPTQ, tmp_path / "out") == result
    with pytest.raises(StageError) as caught:
        checkpoint_of(tiny_model(), SPECS["RTN to W8A8"], tmp_path / "out")
    assert caught.value.failure.reason is FailureReason.SPEC_INVALID
    assert content(tmp_path / "out") == before


def test_a_folder_with_anybodys_files_is_refused(tiny_model, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StageError) as caught:
        checkpoint_of(tiny_model(), GPTQ, tmp_path)
    assert caught.value.failure.reason is FailureReason.SPEC_INVALID
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_folder_that_another_stage_finished_is_refused(tiny_model, tmp_path):
    write_manifest(tmp_path, {"settings": {"stage": "sample"}, "result": {}})
    with pytest.raises(StageError) as caught:
        checkpoint_of(tiny_model(), SPECS["RTN to W8A8"], tmp_path)
    assert caught.value.failure.reason is FailureReason.SPEC_INVALID


@pytest.mark.parametrize("kind", [OwnFolder, Store])
def test_a_checkpoint_inside_the_model_would_change_it_and_is_refused_before_any_work(tiny_model, tmp_path, kind):
    model = tmp_path / "model"
    shutil.copytree(tiny_model(), model)
    (tmp_path / "link").symlink_to(model)
    before = model_digest(model, hash_cache=None)
    with pytest.raises(StageError) as caught:
        checkpoint_of(model, SPECS["RTN to W8A8"], kind(tmp_path / "link" / "int8" / "first"))
    assert (caught.value.failure.reason, caught.value.detail) == (
        FailureReason.SPEC_INVALID,
        "it lies in the model's folder, which must not change; choose a folder outside",
    )
    assert model_digest(model, hash_cache=None) == before


def test_a_model_without_a_linear_under_the_expected_names_lacks_the_first(tiny_model, tmp_path):
    """As one does that was saved as a part of another model, with a prefix before all of its names."""
    shutil.copytree(tiny_model(), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    save_file({f"language_model.{name}": tensor for name, tensor in load_file(file).items()}, file)
    with pytest.raises(StageError) as caught:
        checkpoint_of(tmp_path / "model", SPECS["RTN to W8A8"], tmp_path / "out")
    lacking = Failure(reason=FailureReason.MODEL_INCOMPLETE, subject="model.layers.0.self_attn.q_proj.weight")
    assert caught.value.failure == lacking


def test_columns_that_the_group_does_not_divide_are_refused_before_any_work(tiny_model, tmp_path):
    with pytest.raises(StageError) as caught:
        checkpoint_of(tiny_model(), CandidateSpec(method="RTN", scheme="W4A16"), tmp_path / "out")
    failure = caught.value.failure
    assert (failure.reason, failure.have, failure.need) == (FailureReason.SHAPE_UNSUPPORTED, 64, 128)
    assert failure.subject == "model.layers.0.self_attn.q_proj.weight"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("spec", [SPECS["RTN to W8A8"], GPTQ], ids=["RTN", "GPTQ"])
def test_a_model_with_nan_leaves_nothing_that_looks_whole(tiny_model, tmp_path, spec):
    shutil.copytree(tiny_model(), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(tensors, path)
    with pytest.raises(StageError) as caught:
        checkpoint_of(tmp_path / "model", spec, tmp_path / "out")
    assert caught.value.failure.reason is FailureReason.MODEL_NOT_FINITE
    assert caught.value.failure.subject == "model.layers.1.mlp.down_proj.weight"
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize("hole", ["model.norm.weight", "model.layers.1.input_layernorm.weight", "lm_head.weight"])
def test_a_folder_with_a_hole_never_becomes_a_checkpoint_with_one(tiny_model, tmp_path, hole):
    shutil.copytree(tiny_model(), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if name != hole}, path)
    for work in (
        lambda: checkpoint_of(tmp_path / "model", SPECS["RTN to W8A8"], tmp_path / "out"),
        lambda: inspect_model(tmp_path / "model", [], hash_cache=None),
    ):
        with pytest.raises(StageError) as caught:
            work()
        assert (caught.value.failure.reason, caught.value.failure.subject) == (FailureReason.MODEL_INCOMPLETE, hole)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_weights_that_are_codes_are_refused_also_if_config_json_says_nothing_of_them(dtype, tiny_model, tmp_path):
    shutil.copytree(tiny_model(), tmp_path / "model")
    path, weight = tmp_path / "model" / "model.safetensors", "model.layers.1.mlp.down_proj.weight"
    tensors = load_file(path)
    save_file(tensors | {weight: tensors[weight].to(dtype)}, path)
    with pytest.raises(StageError) as caught:
        checkpoint_of(tmp_path / "model", SPECS["RTN to W8A8"], tmp_path / "out")
    assert (caught.value.failure.reason, caught.value.failure.subject) == (
        FailureReason.ARCHITECTURE_UNSUPPORTED,
        f"{weight}({str(dtype).removeprefix('torch.')})",
    )
    assert not (tmp_path / "out").exists()


def test_a_quantized_model_is_not_quantized_again(tiny_model, tmp_path):
    checkpoint_of(tiny_model(), GPTQ, tmp_path / "once")
    with pytest.raises(StageError) as caught:
        checkpoint_of(tmp_path / "once", GPTQ, tmp_path / "twice")
    assert (caught.value.failure.reason, caught.value.detail) == (
        FailureReason.ARCHITECTURE_UNSUPPORTED,
        "the model is quantized already; give the original",
    )


def test_unfinished_work_with_another_fingerprint_is_discarded_and_that_is_said(tmp_path, caplog):
    folder, work = tmp_path / "out", tmp_path / "work"
    work.mkdir()

    def begun(device, **request):
        return {"request": request, "machine": {"device": device, "threads": 2}}

    open_partial(folder, begun("cpu"), work=work)
    (folder / "model-00001-of-00003.safetensors").write_bytes(b"half")
    open_partial(folder, begun("cpu"), work=work)
    assert (folder / "model-00001-of-00003.safetensors").exists()
    assert not caplog.messages
    open_partial(folder, begun("NVIDIA L4"), work=work)
    assert not (folder / "model-00001-of-00003.safetensors").exists()
    open_partial(tmp_path / "elsewhere", begun("NVIDIA L4", modelDigest="of another"), work=work)
    assert not folder.exists()
    assert caplog.messages == [
        f"Discarding the unfinished work in {folder}: it was begun with {what}."
        for what in ("device cpu, which is NVIDIA L4 here", "other settings or inputs")
    ]


def test_a_run_that_was_killed_before_its_fingerprint_was_whole_is_gone_on_with(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "..fingerprint.json.partial").write_bytes(b'{"thr')
    open_partial(folder, {"threads": 1}, work=None)
    assert [path.name for path in folder.iterdir()] == [".fingerprint.json"]


def test_gptq_is_nearer_to_the_original_than_rtn(tiny_model, tmp_path):
    model = tiny_model("Llama")
    original = ModelStream.open(model).final_hidden(sequences())
    errors = []
    for method in ("GPTQ", "RTN"):
        spec = CandidateSpec(method=method, scheme="W4A16", group_size=32)
        checkpoint_of(model, spec, tmp_path / method)
        changed = ModelStream.open(tmp_path / method).final_hidden(sequences())
        errors.append(sum((a - b).square().sum().item() for a, b in zip(original, changed, strict=True)))
    assert errors[0] < errors[1]


@pytest.mark.parametrize("architecture", ["Llama", "Gemma3Text", "Mixtral", "GPTNeoX"])
def test_activations_in_a_file_change_no_bit(tiny_model, tmp_path, architecture):
    model = tiny_model(architecture)
    # None fits, some fit, all fit.
    for name, budget in (("none", 0), ("some", 100_000), ("all", 1 << 30)):
        checkpoint_of(model, GPTQ, tmp_path / name, activation_memory=budget)
    assert content(tmp_path / "none") == content(tmp_path / "some") == content(tmp_path / "all")


def test_a_volume_without_room_is_refused_before_any_work(tiny_model, small_volume):
    with pytest.raises(StageError) as caught:
        checkpoint_of(tiny_model(), SPECS["RTN to W8A8"], Store(small_volume / "store"))
    failure = caught.value.failure
    assert (failure.reason, failure.subject) == (FailureReason.STORAGE_FULL, str(small_volume / "store"))
    assert failure.need is not None
    assert failure.have is not None
    assert failure.need > failure.have
    assert list(small_volume.iterdir()) == []


@pytest.fixture
def small_volume(tmp_path):
    """A volume of 256 KiB."""
    folder = tmp_path / "volume"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a small volume needs root")
    yield Path(folder)
    subprocess.run(["umount", folder], check=True)


def test_a_candidate_whose_groups_do_not_divide_the_model_keeps_no_other_from_being_made(tiny_model):
    wide = CandidateSpec(method="RTN", scheme="W4A16", group_size=128)
    asked = [("wide", wide), ("channels", CandidateSpec(method="RTN", scheme="W8A8"))]
    first, second = inspect_model(tiny_model("Llama"), asked, hash_cache=None).predicted
    assert first.bytes is None
    assert first.failure is not None
    assert (first.failure.reason, first.failure.have, first.failure.need) == (FailureReason.SHAPE_UNSUPPORTED, 64, 128)
    assert second.failure is None
    assert second.bytes is not None


def test_a_method_that_reads_data_is_not_asked_for_without_any(tmp_path):
    with pytest.raises(ValueError, match="this candidate needs sequences to calibrate on"):
        QuantizeRequest(tmp_path, GPTQ, None)


def test_what_a_method_reads_no_data_of_is_no_part_of_its_request(tmp_path):
    with_data, without = (
        QuantizeRequest(tmp_path, SPECS["RTN to W8A8"], data, model_digest="a" * 64) for data in (sequences(), None)
    )
    assert with_data.told() == without.told()
    assert without.told() == {
        "candidate": SPECS["RTN to W8A8"].told,
        "modelDigest": "a" * 64,
        "dataDigest": None,
    }


def test_unfinished_work_in_a_store_has_a_folder_for_each_fingerprint(tmp_path):
    store = Store(tmp_path)
    one, same, other = (store.unfinished(each) for each in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2}))
    assert one == same != other
    assert one.parent == other.parent == tmp_path
    assert store.finished("c" * 64) == tmp_path / ("c" * 64)
    assert OwnFolder(tmp_path).unfinished({"a": 1}) == OwnFolder(tmp_path).finished("c" * 64) == tmp_path
