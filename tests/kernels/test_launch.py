"""A launch goes where its tensors are. No card is needed: what is asked of torch and of the kernel is written down."""

import contextlib

import pytest
import torch

from saffron_kernels.launch import Launch


class Written:
    """Stands for a kernel and for `torch.cuda.device`: writes down what is done, in its order."""

    def __init__(self):
        self.lines = []

    def __getitem__(self, grid):
        return lambda **keywords: self.lines.append(("started", grid, keywords))

    @contextlib.contextmanager
    def device(self, number):
        self.lines.append(f"entered device {number}")
        try:
            yield
        finally:
            self.lines.append("left it")


class OnCard(torch.Tensor):
    """Says that it is on the second card."""

    def get_device(self):
        return 1


@pytest.mark.parametrize(("kind", "number"), [(OnCard, 1), (torch.Tensor, -1)], ids=["a card", "the processor"])
def test_a_kernel_is_started_while_the_device_of_its_tensors_is_the_current_one(monkeypatch, kind, number):
    written, x = Written(), torch.ones(3).as_subclass(kind)
    monkeypatch.setattr("torch.cuda.device", written.device)
    Launch(written, (4, 2), {"count": 3, "bias": None, "x": x}, num_warps=8).run()
    settings = {"num_warps": 8, "num_stages": 3, "enable_fp_fusion": True}
    assert written.lines == [
        f"entered device {number}",
        ("started", (4, 2), {"count": 3, "bias": None, "x": x, **settings}),
        "left it",
    ]


def test_the_device_is_left_when_a_kernel_can_not_be_started(monkeypatch):
    written = Written()
    monkeypatch.setattr("torch.cuda.device", written.device)
    with pytest.raises(TypeError):
        Launch(None, (1,), {"x": torch.ones(3)}).run()
    assert written.lines[-1] == "left it"
