"""One block, run over all sequences again and again while its linears are quantized one after the other.

Each linear is calibrated on what it reads once those before it are quantized, so the block runs anew up to each one.
What a run has computed before it comes to the first linear that is not quantized yet does not change any more. So the
outputs of the block's parts (norms, attention, MLP) are kept, if there is room, and so is what the last linear of a
sublayer reads: no later run computes them again, attention above all.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saffron_quantizer.algorithms.hessian import add_to_gram, empty_gram
from saffron_quantizer.models.architectures import Sublayer
from saffron_quantizer.models.compute import products_in_bfloat16
from saffron_quantizer.models.stream import Walk

KEEP_BYTES = 1 << 30
"""Room for what one block keeps of all sequences. It changes the time and no bit of the result."""


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
        self._batch = 0
        self._room = KEEP_BYTES
        self._inputs: dict[tuple[str, int], Tensor] = {}  # by sublayer and batch, of its last linear
        self._outputs: dict[tuple[str, int], Any] = {}  # by part and batch

    @property
    def tokens(self) -> int:
        """Tokens that each linear reads."""
        return self._walk.tokens

    def gram(self, linear: str) -> Tensor:
        """Run the block up to a linear and sum xᵀx of the tokens that it reads, padding left out.

        Args:
            linear: its name inside the block.

        Returns:
            The raw sum, lower triangle of [d, d] float32.
        """
        gram = empty_gram(self._columns(linear))

        def add(x: Tensor) -> None:
            with products_in_bfloat16(x.dtype):
                add_to_gram(x, gram)

        self._listen(linear, add)
        return gram

    def squares(self, linear: str) -> Tensor:
        """As `gram`, but its diagonal only, [d] float32."""
        squares = torch.zeros(self._columns(linear))

        def add(x: Tensor) -> None:
            squares.add_(x.float().square_().sum(dim=0))

        self._listen(linear, add)
        return squares

    @torch.no_grad()
    def advance(self) -> None:
        """Run the whole block and take the walk past it."""
        for number in range(len(self._walk.batches)):
            self._walk.states[number] = self._run(number)
            self._drop(number)

    @torch.no_grad()
    def _listen(self, linear: str, take: Callable[[Tensor], None]) -> None:
        """Run the block up to a linear, and hand over what it reads: [tokens, d] of each batch, without padding."""
        sublayer = next((sublayer for sublayer in self._sublayers if sublayer.last == linear), None)

        def listen(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            real = self._walk.batches[self._batch].real
            x = args[0]  # [rows, padded length, d]
            take(x.flatten(0, 1) if bool(real.all()) else x[real])
            if sublayer is not None and self._takes_room(x):
                self._inputs[sublayer.module, self._batch] = x
            raise _EnoughError

        handle = self._block.get_submodule(linear).register_forward_pre_hook(listen)
        try:
            for number in range(len(self._walk.batches)):
                try:
                    self._run(number)
                except _EnoughError:
                    continue
        finally:
            handle.remove()

    def _run(self, number: int) -> Tensor:
        """Run the block for a batch, without what is known; keep the outputs of the parts that come to their end."""
        self._batch = number
        with _shortened(self._block, self._shortcuts(number)), _watched(self._block, self._keep):
            return self._walk.run(self._index, number)

    def _keep(self, part: str, output: object) -> None:
        key = part, self._batch
        if key not in self._outputs and self._takes_room(output):
            self._outputs[key] = output
            spare = self._inputs.pop(key, None)
            self._room += 0 if spare is None else spare.nbytes

    def _drop(self, number: int) -> None:
        """Forget what is kept of a batch."""
        for kept in (self._inputs, self._outputs):
            for key in [key for key in kept if key[1] == number]:
                del kept[key]

    def _shortcuts(self, number: int) -> dict[str, Callable[..., Any]]:
        """What stands in for parts of the block: an output, or the last linear of a sublayer on what it reads."""
        found = {
            sublayer.module: _last_alone(self._block.get_submodule(sublayer.last), sublayer, kept)
            for sublayer in self._sublayers
            if (kept := self._inputs.get((sublayer.module, number))) is not None
        }
        return found | {part: _always(output) for (part, batch), output in self._outputs.items() if batch == number}

    def _takes_room(self, output: object) -> bool:
        """Whether there is room for an output, which is then taken."""
        tensors = output if isinstance(output, tuple) else (output,)
        need = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
        if need > self._room:
            return False
        self._room -= need
        return True

    def _columns(self, linear: str) -> int:
        return self._block.get_submodule(linear).get_parameter("weight").shape[1]


@contextmanager
def _watched(block: nn.Module, keep: Callable[[str, Any], None]) -> Iterator[None]:
    """Hand over the output of each of a block's parts when it is computed."""

    def hook(part: str) -> Callable[..., None]:
        return lambda _module, _args, output: keep(part, output)

    handles = [module.register_forward_hook(hook(part)) for part, module in block.named_children()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _shortened(block: nn.Module, shortcuts: dict[str, Callable[..., Any]]) -> Iterator[None]:
    """Let other functions stand in for parts of a block."""
    modules = [block.get_submodule(part) for part in shortcuts]
    for module, shortcut in zip(modules, shortcuts.values(), strict=True):
        module.forward = shortcut
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _always(output: object) -> Callable[..., Any]:
    return lambda *_, **__: output


def _last_alone(last: nn.Module, sublayer: Sublayer, x: Tensor) -> Callable[..., Any]:
    def forward(*_: object, **__: object) -> object:
        return (last(x), None) if sublayer.gives_attention_weights else last(x)

    return forward
