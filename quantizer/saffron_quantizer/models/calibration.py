"""One block, run over all sequences again and again while its linears are quantized one after the other.

Each linear is calibrated on what it reads once those before it are quantized, so the block runs anew up to each one.
What a sublayer's last linear reads does not change any more when that one is quantized, so it is kept, and the rest of
the sublayer need not be computed again: attention above all.

Where several processes share the sequences, each runs its own, and the sums are added up over all of them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from saffron_quantizer.algorithms.hessian import add_to_gram, empty_gram
from saffron_quantizer.models.architectures import Sublayer
from saffron_quantizer.models.stream import Walk

if TYPE_CHECKING:
    from saffron_quantizer.models.activations import Shelf


class _EnoughError(Exception):
    """The linear that is listened to has been reached; the rest of the block need not run."""


class BlockCalibration:
    """The runs of one loaded block."""

    def __init__(self, walk: Walk, index: int) -> None:
        """Stand before block `index` of a walk; the block is loaded."""
        self._walk = walk
        self._index = index
        self._block = walk.stream.blocks[index]
        self._sublayers = walk.stream.architecture.sublayers
        self._kept: dict[str, Shelf] = {}
        self._batch = 0

    @torch.no_grad()
    def gram(self, linear: str) -> Tensor:
        """Run the block up to a linear and sum xᵀx of the tokens that it reads, padding left out.

        Args:
            linear: its name inside the block.

        Returns:
            The raw sum over the tokens of all ranks, lower triangle of [d, d] float32.
        """
        module = self._block.get_submodule(linear)
        gram = empty_gram(module.get_parameter("weight").shape[1])
        is_last = any(sublayer.last == linear for sublayer in self._sublayers)
        kept = self._walk.memory.shelf(len(self._walk.batches) if is_last else 0)

        def listen(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            real = self._walk.batches[self._batch].real
            x = args[0]  # [rows, padded length, d]
            add_to_gram(x.flatten(0, 1) if bool(real.all()) else x[real], gram)
            if is_last:
                kept[self._batch] = x
            raise _EnoughError

        handle = module.register_forward_pre_hook(listen)
        try:
            for number in range(len(self._walk.batches)):
                try:
                    self._run(number)
                except _EnoughError:
                    continue
        finally:
            handle.remove()
        if is_last:
            self._kept[linear] = kept
        return self._walk.ranks.sum(gram)

    @torch.no_grad()
    def advance(self) -> None:
        """Run the whole block and take the walk past it."""
        for number in range(len(self._walk.batches)):
            self._walk.states[number] = self._run(number)

    def _run(self, number: int) -> Tensor:
        self._batch = number
        with _shortened(self._block, {s: self._kept[s.last][number] for s in self._sublayers if s.last in self._kept}):
            return self._walk.run(self._index, number)


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
