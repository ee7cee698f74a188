"""A layout that can't be undone, and a disk that changes a byte, never make a checkpoint."""

from dataclasses import replace

import pytest
import torch

from saffron_api.candidate import Scheme
from saffron_api.failures import FailureReason, StageError
from saffron_quantizer.algorithms.quantized import Quantized
from saffron_quantizer.checkpoint import exactness
from saffron_quantizer.checkpoint.exactness import stored_exactly, write_exactly
from saffron_quantizer.checkpoint.formats.compressed_tensors import COMPRESSED_TENSORS
from saffron_quantizer.precision import Precision

NAME = "model.layers.0.mlp.up_proj.weight"
QUANTIZED = Quantized(torch.arange(-8, 8, dtype=torch.int8).reshape(2, 8), torch.tensor([[0.5], [0.25]]))


def change(stored, weight):
    name = f"{weight}_packed"
    stored[name] = stored[name].clone()
    stored[name][0, 0] ^= 1
    return stored


def test_a_layout_that_gives_other_codes_back_is_a_bug_that_is_told():
    broken = replace(
        COMPRESSED_TENSORS,
        stored=lambda weight, quantized, precision: change(
            COMPRESSED_TENSORS.stored(weight, quantized, precision), weight
        ),
    )
    precision = Precision(Scheme.W4A16)
    assert set(stored_exactly(COMPRESSED_TENSORS, NAME, QUANTIZED, precision)) == {
        f"{NAME}_packed",
        f"{NAME}_scale",
        f"{NAME}_shape",
    }
    with pytest.raises(StageError) as caught:
        stored_exactly(broken, NAME, QUANTIZED, precision)
    assert (caught.value.failure.reason, caught.value.failure.subject) == (FailureReason.INTERNAL, f"{NAME}:layout")


def test_a_file_that_reads_otherwise_than_it_was_written_is_gone_again(tmp_path, monkeypatch):
    tensors = {"a": torch.arange(6.0), "nan": torch.tensor([float("nan")]), "empty": torch.empty(0)}
    write_exactly(tmp_path / "good.safetensors", tensors)
    assert (tmp_path / "good.safetensors").is_file()

    monkeypatch.setattr(exactness, "read_pieces", lambda entry: [torch.zeros(entry.elements, dtype=entry.dtype)])
    with pytest.raises(StageError) as caught:
        write_exactly(tmp_path / "bad.safetensors", tensors)
    assert caught.value.failure.reason is FailureReason.INPUT_OUTPUT
    assert caught.value.failure.subject == "bad.safetensors(a)"
    assert not (tmp_path / "bad.safetensors").exists()
