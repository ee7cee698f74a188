"""Gathers, while a block runs, the Gram matrices of what its linears read."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saffron_quantizer.algorithms.hessian import add_to_gram, empty_gram
from saffron_quantizer.models.stream import Walk


class _EnoughError(Exception):
    """The last linear that is listened to has been reached; the rest of the block need not run."""


@torch.no_grad()
def gather_grams(walk: Walk, index: int, linears: Sequence[str]) -> dict[str, Tensor]:
    """Run a loaded block over all batches and sum xᵀx of the tokens that some of its linears read.

    Args:
        walk: it stands before the block.
        index: the block, which is loaded.
        linears: names inside the block, in the order in which they are computed; the block runs no further than the
            last of them.

    Returns:
        For each linear the raw sum, lower triangle of [d, d] float32. Padding is not in it.
    """
    block = walk.stream.blocks[index]
    grams: dict[str, Tensor] = {}
    real: Tensor | None = None

    def listen(name: str) -> Any:  # noqa: ANN401 - torch's handle
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0] if real is None else args[0][real]
            x = x.reshape(-1, x.shape[-1])
            add_to_gram(x, grams.setdefault(name, empty_gram(x.shape[1])))
            if name == linears[-1]:
                raise _EnoughError

        return block.get_submodule(name).register_forward_pre_hook(hook)

    handles = [listen(name) for name in linears]
    try:
        for batch, state in zip(walk.batches, walk.states, strict=True):
            real = batch.real if not bool(batch.real.all()) else None
            try:
                block(state, **walk.stream.inputs(index, batch))
            except _EnoughError:
                continue
    finally:
        for handle in handles:
            handle.remove()
    return grams
