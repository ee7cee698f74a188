"""Every way in which a model folder can be broken ends in its own reason and names what is broken."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from saffron_api.failures import FailureReason, StageError
from saffron_quantizer.checkpoint import tensor_file
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.checkpoint.tensor_file import pieces_of, read_header, read_pieces, read_rows
from saffron_quantizer.checkpoint.writer import copy_tensors, write_tensors
from saffron_quantizer.models.stream import ModelStream

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A copy that a test may break."""
    shutil.copytree(tiny_model(), tmp_path / "model")
    return tmp_path / "model"


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def shard(folder):
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()
    return weight_map


def poison(value):
    def change(tensors):
        tensors[DOWN][3, 5] = value

    return lambda folder: edit(folder, change)


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def lie_about_shape(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"shape":[97,64]', b'"shape":[97,65]', 1))


def huge_header(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 16)


def pickle_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lose_shard(folder):
    shard(folder)
    (folder / "two.safetensors").unlink()


def keep_the_single_file(folder):
    whole = (folder / "model.safetensors").read_bytes()
    shard(folder)
    (folder / "model.safetensors").write_bytes(whole)


def lead_to(file):
    def damage(folder):
        weight_map = {**shard(folder), DOWN: file}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return damage


def drop(tensors):
    del tensors[DOWN]


def reshape(tensors):
    tensors[DOWN] = tensors[DOWN].T.contiguous()


def configure(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def other_architecture(folder):
    configure(folder, architectures=["GPT2LMHeadModel"])


BROKEN = {
    "the folder is missing": (shutil.rmtree, FailureReason.MODEL_MISSING, None),
    "config.json is missing": (lambda f: (f / "config.json").unlink(), FailureReason.MODEL_MISSING, None),
    "config.json is no JSON": (
        lambda f: (f / "config.json").write_text("{"),
        FailureReason.MODEL_MALFORMED,
        "config.json",
    ),
    "config.json has a word for a number": (
        lambda f: configure(f, rms_norm_eps="small"),
        FailureReason.MODEL_MALFORMED,
        "config.json",
    ),
    "config.json names its classes in a mapping": (
        lambda f: configure(f, architectures={"causal": "LlamaForCausalLM"}),
        FailureReason.MODEL_MALFORMED,
        "config.json(architectures)",
    ),
    "the weights are a pickle": (pickle_only, FailureReason.MODEL_UNSAFE, "pytorch_model.bin"),
    "there are no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        FailureReason.MODEL_INCOMPLETE,
        "model.safetensors",
    ),
    "a tensor is missing": (lambda f: edit(f, drop), FailureReason.MODEL_INCOMPLETE, DOWN),
    "a shard is missing": (lose_shard, FailureReason.MODEL_INCOMPLETE, "two.safetensors"),
    "the index leads out of the folder": (
        lead_to("../elsewhere.safetensors"),
        FailureReason.MODEL_MALFORMED,
        "model.safetensors.index.json",
    ),
    "the index leads to the folder above": (
        lead_to(".."),
        FailureReason.MODEL_MALFORMED,
        "model.safetensors.index.json",
    ),
    "the index leads to no file": (lead_to(""), FailureReason.MODEL_MALFORMED, "model.safetensors.index.json"),
    "there are shards and a single file": (
        keep_the_single_file,
        FailureReason.MODEL_AMBIGUOUS,
        "model.safetensors.index.json",
    ),
    "the file is cut short": (truncate, FailureReason.MODEL_MALFORMED, None),
    "the file is no safetensors": (huge_header, FailureReason.MODEL_MALFORMED, "model.safetensors"),
    "a shape does not fit its bytes": (
        lie_about_shape,
        FailureReason.MODEL_MALFORMED,
        "model.safetensors(lm_head.weight)",
    ),
    "a tensor has another shape than the config": (
        lambda f: edit(f, reshape),
        FailureReason.MODEL_MALFORMED,
        DOWN,
    ),
    "a weight is NaN": (poison(float("nan")), FailureReason.MODEL_NOT_FINITE, DOWN),
    "a weight is infinite": (poison(float("-inf")), FailureReason.MODEL_NOT_FINITE, DOWN),
    "the architecture is unknown": (
        other_architecture,
        FailureReason.ARCHITECTURE_UNSUPPORTED,
        "GPT2LMHeadModel(llama)",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_refused_by_name(folder, case):
    damage, reason, subject = BROKEN[case]
    damage(folder)
    with pytest.raises(StageError) as caught:
        ModelStream.open(folder).final_hidden([torch.tensor([1, 2, 3])])
    assert caught.value.failure.reason == reason
    if subject is not None:
        assert caught.value.failure.subject == subject


def test_a_sharded_folder_reads_as_the_single_file(tiny_model, folder):
    shard(folder)
    single, sharded = CheckpointReader(tiny_model()), CheckpointReader(folder)
    assert sorted(single.entries) == sorted(sharded.entries)
    assert (single.bytes, single.parameters) == (sharded.bytes, sharded.parameters)
    for name in single.entries:
        assert torch.equal(single.read(name), sharded.read(name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_read_as_safetensors_own_library_reads_them(tiny_model, dtype):
    reader = CheckpointReader(tiny_model("Qwen2", dtype=dtype))
    expected = load_file(reader.folder / "model.safetensors")
    assert sorted(expected) == sorted(reader.entries)
    for name, tensor in expected.items():
        assert torch.equal(reader.read(name), tensor)


def test_an_index_of_the_single_file_alone_says_nothing_else_than_the_file(folder):
    names = load_file(folder / "model.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert sorted(CheckpointReader(folder).entries) == sorted(names)


def test_a_pickle_beside_safetensors_is_left_alone(folder):
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    assert CheckpointReader(folder).entries


def test_a_tensor_is_read_in_pieces_and_a_matrix_by_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "_PIECE_BYTES", 12)
    matrix = torch.arange(10, dtype=torch.bfloat16).reshape(5, 2)
    write_tensors(tmp_path / "one.safetensors", {"a": torch.zeros(3), "b": matrix, "none": torch.zeros(0, 2)})
    entries = read_header(tmp_path / "one.safetensors")
    pieces = [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0]]
    assert [piece.tolist() for piece in read_pieces(entries["b"])] == pieces
    assert [piece.tolist() for piece in pieces_of(matrix)] == pieces
    assert [piece.numel() for piece in read_pieces(entries["none"])] == []
    assert read_rows(entries["b"], torch.tensor([4, 0, 4])).tolist() == [[8.0, 9.0], [0.0, 1.0], [8.0, 9.0]]


def test_tensors_are_copied_one_by_one_into_the_bytes_that_writing_them_at_once_gives(tmp_path):
    tensors = {"b": torch.ones(3, 2, dtype=torch.bfloat16), "a": torch.arange(5.0), "c": torch.zeros(0, 4)}
    write_tensors(tmp_path / "one.safetensors", tensors)
    entries = read_header(tmp_path / "one.safetensors")
    read = []

    def read_one(name):
        read.append(name)
        return read_pieces(entries[name])

    copy_tensors(tmp_path / "two.safetensors", entries, read_one)
    assert (tmp_path / "two.safetensors").read_bytes() == (tmp_path / "one.safetensors").read_bytes()
    assert read == ["a", "c", "b"]
