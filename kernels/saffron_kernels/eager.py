"""A short way to the CPU's kernels where nothing needs torch's op.

Torch's dispatcher calls an op's Python by way of several layers of Python. That takes 10 µs, and 40 to 200 µs where
weights have just gone through the caches, which is as much as a token's product with a layer takes.
"""

import importlib
from collections.abc import Callable
from functools import cache
from types import ModuleType

import torch
from torch import Tensor, is_grad_enabled
from torch._C import _len_torch_dispatch_stack  # there is no other name for it
from torch.compiler import is_compiling

empty_strided: Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], Tensor] = (
    torch._C._dynamo.guards._empty_strided_cpu  # type: ignore[attr-defined]  # noqa: SLF001 - as above
)
"""A tensor of a shape, strides and a type in the CPU's memory, as what torch has compiled asks for it: in half the time
of `Tensor.new_empty` and a third of that of `torch.empty`."""


def on_cpu(x: Tensor) -> bool:
    """Whether the CPU's function does for x what the op would: nothing traces it or wants its gradient."""
    return (
        type(x) is Tensor
        and x.is_cpu
        and not (x.requires_grad and is_grad_enabled())
        and not is_compiling()
        and not _len_torch_dispatch_stack()
    )


@cache
def cpu_kernels(stem: str) -> ModuleType:
    """A stem's module for the CPU, imported when it is first needed."""
    return importlib.import_module(f"saffron_kernels.{stem}_cpu")
