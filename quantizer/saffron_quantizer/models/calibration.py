"""One block, run over all sequences again and again while its linears are quantized one after the other.

Each linear is calibrated on what it reads once those before it are quantized, so the block runs anew up to each one.
What a run has computed before it comes to the first linear that is not quantized yet does not change any more. So the
outputs of the block's parts (norms, attention, MLP) are kept, and so is what the last linear of a sublayer reads: no
later run computes them again, attention above all. An output is dropped once no part will read it that is still to be
computed.

Where several processes share the sequences, each runs its own, and sums are added up over all of them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saffron_kernels.hessian import hessian
from saffron_quantizer.models.activations import Shelf
from saffron_quantizer.models.architectures import Sublayer
from saffron_quantizer.models.compute import products_in_bfloat16
from saffron_quantizer.models.expert_calibration import ExpertCalibration
from saffron_quantizer.models.gram import Gram
from saffron_quantizer.models.listening import first_call
from saffron_quantizer.models.stream import Walk


class BlockCalibration:
    """The runs of one loaded block."""

    def __init__(self, walk: Walk, index: int) -> None:
        """Stand before block `index` of a walk; the block is loaded."""
        self._walk = walk
        self._index = index
        self._block = walk.stream.blocks[index]
        self._sublayers = walk.stream.architecture.sublayers
        self._mixture = walk.stream.architecture.mixture
        self._experts: ExpertCalibration | None = None
        self._of_all: Gram | None = None
        self._batch = 0
        self._inputs = {sublayer.module: walk.shelf() for sublayer in self._sublayers}  # of its last linear
        self._outputs = {part: walk.shelf() for part, _ in self._block.named_children()}
        self._pairs: set[str] = set()  # parts whose output is a pair of a tensor and None
        self._readers = walk.readers(index)
        self._unread: list[set[str]] = [set() for _ in walk.batches]  # of each batch the parts whose output is dropped

    def sees_few(self, linear: str) -> bool:
        """Whether a linear is one of an expert that is calibrated on all tokens, since it is sent so few."""
        experts = self._experts_of(linear)
        return experts is not None and experts.sees_few(linear)

    def gram(self, linear: str, original: Shelf | None = None) -> Gram:
        """Run the block up to a linear and sum xᵀx of the tokens that it reads, in all ranks, padding left out.

        Args:
            linear: its name inside the block.
            original: what it reads in the original, [rows, padded length, d] a batch; None for the linear of an expert,
                which need not be sent the same tokens there.
        """
        shared = self.sees_few(linear) and not linear.endswith(f".{self._mixture.down}") if self._mixture else False
        if shared and self._of_all is not None:
            return self._of_all
        columns = self._columns(linear)
        gram = torch.zeros(columns, columns, device=self._walk.stream.device)
        drift = None if original is None else torch.zeros_like(gram)

        def add(x: Tensor) -> None:
            hessian(x, gram)
            if original is not None and drift is not None:
                # The product may round what is apart to bfloat16, which is far finer than what is known of it.
                apart = self._real(original[self._batch], self._batch).float() - x.float()
                with products_in_bfloat16(x.dtype):
                    drift.addmm_(apart.T, x.float())

        tokens = self._listen(linear, add)
        found = Gram(self._walk.ranks.sum(gram), tokens, None if drift is None else self._walk.ranks.sum(drift))
        if shared:
            # Whichever expert it is, what it reads first is all tokens.
            self._of_all = found
        return found

    def squares(self, linear: str) -> Tensor:
        """As `gram`, but its diagonal only, [d] float32."""
        squares = torch.zeros(self._columns(linear), device=self._walk.stream.device)

        def add(x: Tensor) -> None:
            squares.add_(x.float().square_().sum(dim=0))

        self._listen(linear, add)
        return self._walk.ranks.sum(squares)

    @torch.no_grad()
    def advance(self) -> None:
        """Run the whole block and take the walk past it."""
        for number in range(len(self._walk.batches)):
            self._walk.states[number] = self._run(number)
            self._drop(number)

    @torch.no_grad()
    def _listen(self, linear: str, take: Callable[[Tensor], None]) -> int:
        """Run the block up to a linear, and hand over what it reads: [tokens, d] of each batch, without padding.

        Returns:
            How many tokens that were, in all ranks.
        """
        experts = self._experts_of(linear)
        if experts is not None:
            return experts.listen(linear, take)
        sublayer = next((sublayer for sublayer in self._sublayers if sublayer.last == linear), None)
        module = self._block.get_submodule(linear)
        for number in range(len(self._walk.batches)):
            (x,) = first_call(module, lambda number=number: self._run(number))  # type: ignore[misc]
            take(self._real(x, number))
            if sublayer is not None:
                self._inputs[sublayer.module][number] = x
                self._drop_unread()
        return self._walk.tokens

    def _real(self, x: Tensor, number: int) -> Tensor:
        """The tokens of a batch without padding, [rows, padded length, d] -> [tokens, d]."""
        flat = x.reshape(-1, x.shape[-1])
        real = self._walk.batches[number].real
        return flat if bool(real.all()) else flat[real.flatten()]

    def _experts_of(self, linear: str) -> ExpertCalibration | None:
        """The experts of the block, if a linear is part of one."""
        if self._mixture is None or self._mixture.expert_of(linear) is None:
            return None
        if self._experts is None:
            self._experts = ExpertCalibration(self._block, self._mixture, self._walk, self._run)
        return self._experts

    def _run(self, number: int) -> Tensor:
        """Run the block for a batch, without what is known; keep the outputs of the parts that come to their end."""
        self._batch = number
        with _shortened(self._block, self._shortcuts(number)), _watched(self._block, self._keep):
            return self._walk.run(self._index, number)

    def _keep(self, part: str, output: object) -> None:
        """Keep a part's output, unless it is more than a tensor."""
        if self._batch in self._outputs[part]:
            return
        if isinstance(output, tuple) and all(other is None for other in output[1:]):
            self._pairs.add(part)
            (output, *_) = output
        if isinstance(output, Tensor):
            self._outputs[part][self._batch] = output
            if part in self._inputs:
                self._inputs[part].clear(self._batch)
            self._drop_unread()

    def _drop_unread(self) -> None:
        """Forget the outputs of the batch at work that are read by parts alone that will not be computed again."""
        for part, readers in self._readers.items():
            if part in self._unread[self._batch] or self._batch not in self._outputs[part]:
                continue
            if readers and all(reader is not None and self._is_known(reader) for reader in readers):
                self._outputs[part].clear(self._batch)
                self._unread[self._batch].add(part)

    def _is_known(self, part: str) -> bool:
        """Whether something stands in for a part in the batch at work."""
        known = self._batch in self._outputs[part] or part in self._unread[self._batch]
        return known or (part in self._inputs and self._batch in self._inputs[part])

    def _drop(self, number: int) -> None:
        """Forget what is kept of a batch."""
        for kept in (*self._inputs.values(), *self._outputs.values()):
            kept.clear(number)

    def _shortcuts(self, number: int) -> dict[str, Callable[..., Any]]:
        """What stands in for parts of the block: an output, or the last linear of a sublayer on what it reads."""
        found = {
            sublayer.module: _last_alone(self._block.get_submodule(sublayer.last), sublayer, kept, number)
            for sublayer in self._sublayers
            if number in (kept := self._inputs[sublayer.module])
        }
        known = {part: kept for part, kept in self._outputs.items() if number in kept}
        found |= {part: _known(kept, number, pair=part in self._pairs) for part, kept in known.items()}
        return found | {part: _nothing(pair=part in self._pairs) for part in self._unread[number]}

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


def _known(kept: Shelf, number: int, *, pair: bool) -> Callable[..., Any]:
    return lambda *_, **__: (kept[number], None) if pair else kept[number]


def _nothing(*, pair: bool) -> Callable[..., Any]:
    """For an output that nothing is computed from: no number can be taken out of it."""
    nothing = torch.empty(0)
    return lambda *_, **__: (nothing, None) if pair else nothing


def _last_alone(last: nn.Module, sublayer: Sublayer, kept: Shelf, number: int) -> Callable[..., Any]:
    def forward(*_: object, **__: object) -> object:
        output = last(kept[number])
        return (output, None) if sublayer.gives_attention_weights else output

    return forward
