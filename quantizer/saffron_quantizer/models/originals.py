"""What the linears of a block read in the original, beside the walk through the quantized model."""

from collections.abc import Collection
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from saffron_quantizer.models.activations import Shelf
from saffron_quantizer.models.stream import Walk


@torch.no_grad()
def advance_and_keep(walk: Walk, index: int, linears: Collection[str]) -> dict[str, Shelf]:
    """Run a loaded block of the original over all batches, take the walk past it, and keep what linears read.

    Args:
        walk: through the original; it stands before the block.
        index: of the block, which has the original's weights.
        linears: their names inside the block; each is called once a batch, with all tokens.

    Returns:
        For each linear what it reads, [rows, padded length, d] a batch.
    """
    block = walk.stream.blocks[index]
    kept = {linear: walk.shelf() for linear in linears}
    for number in range(len(walk.batches)):
        with ExitStack() as stack:
            for linear, shelf in kept.items():
                stack.callback(_kept(block.get_submodule(linear), shelf, number).remove)
            walk.states[number] = walk.run(index, number)
    return kept


def _kept(module: nn.Module, shelf: Shelf, number: int) -> torch.utils.hooks.RemovableHandle:
    """Put what a module is called with on a shelf."""

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        shelf[number] = args[0]

    return module.register_forward_pre_hook(keep)
