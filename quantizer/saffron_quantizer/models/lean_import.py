"""transformers imported without what compiles, trains or spreads a model, which a forward pass here never asks for.

Those parts bring torch's compiler, sympy and Triton with them: a second of every start, and 140 MB that stay.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed

_COMPILER = "torch._dynamo"
_MARKS = frozenset({"allow_in_graph", "assume_constant_result", "disable"})
"""What functions are marked with for the compiler."""


class _NoCompiler(ModuleType):
    """Stands for torch's compiler where functions are only marked for it. Anything else that is asked of it fails."""

    def __init__(self) -> None:
        super().__init__(_COMPILER)
        # One of its submodules is a few lines that masks are made with; it is found where it is.
        self.__path__ = [str(Path(torch.__file__).with_name(_COMPILER.rpartition(".")[2]))]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in _MARKS:
            raise AttributeError(f"{_COMPILER}.{name} is asked for where nothing is compiled")
        return _unmarked


def _unmarked(*marked: Any, **_: object) -> Any:  # noqa: ANN401 - whatever function is marked
    """As a decorator, with or without arguments: the function as it is."""
    return marked[0] if marked and callable(marked[0]) else lambda function: function


@contextmanager
def without_compiler() -> Iterator[None]:
    """Let code run that marks functions for torch's compiler, which is not imported for that.

    Torch itself does so when an operator that is written in Python is called first. Where the compiler is there
    already, nothing is put in its place; afterwards it can be imported as ever.
    """
    if _COMPILER in sys.modules:
        yield
        return
    # To type checkers alone, torch has the name before the module is imported.
    sys.modules[_COMPILER] = torch._dynamo = _NoCompiler()  # noqa: SLF001
    try:
        yield
    finally:
        del sys.modules[_COMPILER], torch._dynamo  # noqa: SLF001


@contextmanager
def lean_import() -> Iterator[None]:
    """Let parts of transformers be imported as if torch had neither a compiler nor processes that share a model."""
    is_available = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        with without_compiler():
            yield
    finally:
        torch.distributed.is_available = is_available
