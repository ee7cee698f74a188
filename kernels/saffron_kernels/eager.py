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


def on_cpu(x: Tensor, *others: Tensor | None) -> bool:
    """Whether the CPU does for x what the op would: nothing traces it, or asks for a gradient of it or the others."""
    return (
        type(x) is Tensor
        and x.is_cpu
        and not (is_grad_enabled() and _wants_gradient(x, *others))
        and not is_compiling()
        and not _len_torch_dispatch_stack()
    )


def _wants_gradient(*tensors: Tensor | None) -> bool:
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


@cache
def cpu_kernels(stem: str) -> ModuleType:
    """A stem's module for the CPU, imported when it is first needed."""
    return importlib.import_module(f"saffron_kernels.{stem}_cpu")
