"""Where activations are kept: the same bits from a file as from memory, never more in memory than the budget."""

import os
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from saffron_api.failures import FailureReason, StageError
from saffron_quantizer.models.activations import ActivationMemory

DTYPES = (torch.float32, torch.bfloat16)
TENSORS = st.builds(
    lambda dtype, rows, columns, seed: torch.randn(rows, columns, 3, generator=torch.Generator().manual_seed(seed)).to(
        dtype
    ),
    st.sampled_from(DTYPES),
    st.integers(1, 5),
    st.integers(1, 7),
    st.integers(0, 1000),
)
SLOTS = 4


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, SLOTS - 1), TENSORS), max_size=12), st.integers(0, 600))
def test_a_shelf_gives_what_was_put_last_in_each_place(tmp_path_factory, puts, budget):
    folder = tmp_path_factory.mktemp("shelf")
    memory = ActivationMemory(budget, folder)
    shelf, expected = memory.shelf(SLOTS), {}
    for number, tensor in puts:
        shelf[number] = tensor
        expected[number] = tensor
        assert memory.used <= budget
    for number, tensor in expected.items():
        found = shelf[number]
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)
    assert list(folder.iterdir()) == []
    del shelf
    assert memory.used == 0


@pytest.mark.parametrize("budget", [0, None], ids=["in a file", "in memory"])
def test_floats_are_kept_in_the_type_that_is_asked_for_and_come_out_in_their_own(tmp_path, budget):
    memory = ActivationMemory(budget, tmp_path)
    shelf = memory.shelf(3, kept=torch.bfloat16)
    wide, large, numbers = torch.tensor([1 + 2**-9, -3.0]), torch.randn(300, 200), torch.tensor([1 << 40])
    for number, tensor in enumerate((wide, large, numbers)):
        shelf[number] = tensor
    assert torch.equal(shelf[0], torch.tensor([1.0, -3.0]))
    assert torch.equal(shelf[1], large.bfloat16().float())
    assert torch.equal(shelf[2], numbers)
    assert memory.used == (0 if budget == 0 else 2 * 2 + 2 * large.numel() + 8)


def test_a_transposed_tensor_comes_out_as_it_looks(tmp_path):
    shelf = ActivationMemory(0, tmp_path).shelf(1)
    tensor = torch.arange(12.0).reshape(3, 4).T
    shelf[0] = tensor
    assert torch.equal(shelf[0], tensor)


def test_an_empty_place_is_an_error(tmp_path):
    with pytest.raises(LookupError, match="place 1"):
        ActivationMemory(0, tmp_path).shelf(2)[1]


def test_a_budget_needs_a_folder():
    with pytest.raises(ValueError, match="need a folder"):
        ActivationMemory(1)


def test_the_file_is_its_owners_alone_and_is_gone_with_the_shelf(tmp_path):
    def ours():
        """Descriptors of files in the folder."""
        paths = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        return [int(path.name) for path in paths if str(path.readlink()).startswith(str(tmp_path))]

    shelf = ActivationMemory(0, tmp_path).shelf(1)
    shelf[0] = torch.zeros(10)
    (descriptor,) = ours()
    assert os.fstat(descriptor).st_mode & 0o777 == 0o600
    assert os.fstat(descriptor).st_nlink == 0
    del shelf
    assert ours() == []


def test_a_full_volume_is_told_with_what_was_needed(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    shelf = ActivationMemory(0, tmp_path).shelf(1)
    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(StageError) as caught:
        shelf[0] = torch.zeros(10)
    assert (caught.value.failure.reason, caught.value.failure.need) == (FailureReason.STORAGE_FULL, 40)
