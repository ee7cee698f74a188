"""Which parts of a block read what its other parts give, so that what nobody will read any more need not be kept."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

Readers = Mapping[str, frozenset[str | None]]
"""For each part, by its name inside the block, the parts that read its output; None for the block's own code."""


class _Watched(Tensor):
    """A part's output that tells when something is computed from it."""

    tell: Callable[[], None]

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        _types: Any,  # noqa: ANN401 - torch's own signature
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - as above
        """Tell of it, and compute; what comes out is an ordinary tensor."""
        for tensor in torch.utils._pytree.tree_leaves((args, kwargs)):  # noqa: SLF001 - lists of tensors are arguments, too
            if isinstance(tensor, _Watched):
                with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001 - as torch's documentation does it
                    tell = tensor.tell
                tell()
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001 - as above
            return func(*args, **(kwargs or {}))


def readers_of_parts(block: nn.Module, run: Callable[[], object]) -> Readers:
    """Watch a block's parts, its direct children, while it runs from its beginning to its end.

    Args:
        block: the block.
        run: runs it.
    """
    readers: dict[str, set[str | None]] = {part: set() for part, _ in block.named_children()}
    at_work: list[str] = []

    def watched(part: str, output: object) -> object:
        if isinstance(output, tuple):
            return (watched(part, output[0]), *output[1:])
        if not isinstance(output, Tensor):
            return output
        seen = output.as_subclass(_Watched)
        seen.tell = lambda: readers[part].add(at_work[-1] if at_work else None)
        return seen

    def begin(part: str) -> Callable[..., None]:
        return lambda *_: at_work.append(part)

    def end(part: str) -> Callable[..., object]:
        def give(_module: nn.Module, _args: object, output: object) -> object:
            at_work.pop()
            return watched(part, output)

        return give

    with ExitStack() as stack, torch.no_grad():
        for part, module in block.named_children():
            stack.callback(module.register_forward_pre_hook(begin(part)).remove)
            stack.callback(module.register_forward_hook(end(part)).remove)
        run()
    return {part: frozenset(names) for part, names in readers.items()}
