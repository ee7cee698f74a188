"""A short way to the CPU's kernels where nothing needs torch's op.

Torch's dispatcher calls an op's Python by way of several layers of Python. That takes 10 µs, and 40 to 200 µs where
weights have just gone through the caches, which is as much as a token's product with a layer takes.
"""

import importlib
from functools import cache
from types import ModuleType

import torch
from torch import Tensor


def on_cpu(x: Tensor) -> bool:
    """Whether the CPU's function does for x what the op would: nothing traces it or wants its gradient."""
    return (
        type(x) is Tensor
        and x.is_cpu
        and not (x.requires_grad and torch.is_grad_enabled())
        and not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()  # noqa: SLF001 - there is no other name for it
    )


@cache
def cpu_kernels(stem: str) -> ModuleType:
    """A stem's module for the CPU, imported when it is first needed."""
    return importlib.import_module(f"saffron_kernels.{stem}_cpu")
