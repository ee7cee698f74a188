"""Rounding what a block keeps between its passes in every pass, whether it is kept in that one or not.

While a block is quantized it is passed through again and again, and what its parts gave is kept meanwhile, in fewer
bits than it was computed in. A run that goes on where another one was killed passes through a finished block once.
Both come to the same bits only if what is kept in the one is rounded in the other.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saffron_quantizer.models.architectures import Sublayer


@contextmanager
def rounding_kept_values(block: nn.Module, sublayers: Collection[Sublayer], kept: torch.dtype) -> Iterator[None]:
    """Have the outputs of a block's parts, and what the last linear of a sublayer reads, go through a type.

    Args:
        block: the block. Its hooks are gone when the context ends.
        sublayers: of its architecture; those that it lacks are passed over.
        kept: the type. What is handed on has the type that it had.
    """

    def rounded(tensor: Tensor) -> Tensor:
        return tensor.to(kept).to(tensor.dtype)

    def output_rounded(_module: nn.Module, _args: object, output: object) -> object:
        if isinstance(output, tuple):
            first, *others = output
            return (rounded(first), *others)
        return rounded(output) if isinstance(output, Tensor) else output

    def input_rounded(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        first, *others = args
        return (rounded(first), *others)

    modules = dict(block.named_modules())
    with ExitStack() as stack:
        for _, part in block.named_children():
            stack.callback(part.register_forward_hook(output_rounded).remove)
        for sublayer in sublayers:
            if sublayer.last in modules:
                stack.callback(modules[sublayer.last].register_forward_pre_hook(input_rounded).remove)
        yield
