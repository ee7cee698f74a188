"""One block, run over all sequences again and again while its linears are quantized one after the other.

Each linear is calibrated on what it reads once those before it are quantized, so the block runs anew up to each one.
What a sublayer's last linear reads does not change any more when that one is quantized, so it is kept, if there is
room, and the rest of the sublayer need not be computed again: attention above all.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saffron_quantizer.algorithms.hessian import add_to_gram, empty_gram
from saffron_quantizer.models.architectures import Mixture, Sublayer
from saffron_quantizer.models.expert_calibration import ExpertCalibration
from saffron_quantizer.models.gram import Gram
from saffron_quantizer.models.listening import first_call
from saffron_quantizer.models.stream import Walk

KEEP_BYTES = 1 << 30
"""Room for what one sublayer's last linear, or a mixture, reads in all sequences. It changes the time and no bit of the
result."""


class BlockCalibration:
    """The runs of one loaded block."""

    def __init__(self, walk: Walk, index: int) -> None:
        """Stand before block `index` of a walk; the block is loaded."""
        self._walk = walk
        self._index = index
        self._block = walk.stream.blocks[index]
        self._sublayers = walk.stream.architecture.sublayers
        self._kept: dict[str, list[Tensor]] = {}
        self._mixture = walk.stream.architecture.mixture
        self._experts: ExpertCalibration | None = None

    @torch.no_grad()
    def gram(self, linear: str) -> Gram:
        """Run the block up to a linear and sum xᵀx of the tokens that it reads, padding left out.

        Args:
            linear: its name inside the block.
        """
        if self._mixture is not None and self._mixture.expert_of(linear) is not None:
            return self._expert_gram(self._mixture, linear)
        module = self._block.get_submodule(linear)
        gram = empty_gram(module.get_parameter("weight").shape[1])
        kept: list[Tensor] = []
        keep = self._has_room(linear)

        for number, batch in enumerate(self._walk.batches):
            (x,) = first_call(module, lambda number=number: self._run(number))  # type: ignore[misc]
            flat = x.reshape(-1, x.shape[-1])  # [rows · padded length, d]
            add_to_gram(flat if bool(batch.real.all()) else flat[batch.real.flatten()], gram)
            if keep:
                kept.append(x)
        if kept:
            self._kept[linear] = kept
        return Gram(gram, self._walk.tokens)

    @torch.no_grad()
    def advance(self) -> None:
        """Run the whole block and take the walk past it."""
        for number in range(len(self._walk.batches)):
            self._walk.states[number] = self._run(number)

    def _expert_gram(self, mixture: Mixture, linear: str) -> Gram:
        if self._experts is None:
            keep = self._fits(self._walk.stream.hidden_size)
            self._experts = ExpertCalibration(self._block, mixture, self._walk.batches, self._run, keep=keep)
        return self._experts.gram(linear)

    def _run(self, number: int) -> Tensor:
        with _shortened(self._block, {s: self._kept[s.last][number] for s in self._sublayers if s.last in self._kept}):
            return self._walk.run(self._index, number)

    def _has_room(self, linear: str) -> bool:
        """Whether a linear is a sublayer's last, and what it reads may be kept."""
        if all(sublayer.last != linear for sublayer in self._sublayers):
            return False
        return self._fits(self._block.get_submodule(linear).get_parameter("weight").shape[1])

    def _fits(self, width: int) -> bool:
        """Whether vectors of a width may be kept, one for each token."""
        padded = sum(batch.tokens.numel() for batch in self._walk.batches)
        return padded * width * self._walk.states[0].dtype.itemsize <= KEEP_BYTES


@contextmanager
def _shortened(block: nn.Module, kept: dict[Sublayer, Tensor]) -> Iterator[None]:
    """Let sublayers give their last linear's output for what it is known to read."""
    modules = [block.get_submodule(sublayer.module) for sublayer in kept]
    for module, (sublayer, x) in zip(modules, kept.items(), strict=True):
        module.forward = _shortcut(block.get_submodule(sublayer.last), sublayer, x)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _shortcut(last: nn.Module, sublayer: Sublayer, x: Tensor) -> Callable[..., Any]:
    def forward(*_: object, **__: object) -> object:
        return (last(x), None) if sublayer.gives_attention_weights else last(x)

    return forward
