"""What one forward pass shows of a model whose architecture has no row.

All that has weights runs on torch's meta device, where tensors have shapes and no values, and its outputs are made up:
random before the blocks, and from the first block on what goes in comes out. So whatever else the model does to hidden
states between its blocks or after them shows as a difference.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_LENGTH = 4


@dataclass
class Observed:
    """What a forward pass showed.

    Attributes:
        linears: of the blocks, by their names inside them, in the order of their first calls.
        read_by: for each tensor that linears of a block read, which ones.
        final: children of the inner module that are called after the last block.
        faults: what our walk can't do, by name, each with a clause that says why.
    """

    linears: dict[str, None] = field(default_factory=dict)
    read_by: list[list[str]] = field(default_factory=list)
    final: list[str] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)


def observe(inner: nn.Module, blocks: nn.ModuleList) -> Observed:
    """Run the module that calls the blocks, twice, with other tokens and embeddings each time.

    Args:
        inner: whose child `blocks` is, with real buffers. It is of no use afterwards.
        blocks: of one type.

    Raises:
        RuntimeError, ValueError, ...: whatever the model's code raises where it needs more than shapes.
    """
    watch = _Watch(inner, blocks)
    for seed in (0, 1):
        watch.begin(seed)
        watch.end(inner(torch.full((1, _LENGTH), seed), use_cache=False)[0])
    return watch.seen


class _Watch:
    """The hooks, and what they note."""

    def __init__(self, inner: nn.Module, blocks: nn.ModuleList) -> None:
        self.seen = Observed()
        self._last = blocks[-1]
        self._keywords: list[dict[str, Any]] = []
        self._before: list[dict[str, Any]] = []
        for block in blocks:
            self._watch_linears(block)
            self._run_on_meta(block)
            block.register_forward_hook(self._after_block, with_kwargs=True)
        for name, child in inner.named_children():
            if child is not blocks:
                self._run_on_meta(child)
                child.register_forward_hook(self._after_child(name))

    def begin(self, seed: int) -> None:
        """Stand before a pass."""
        self._before, self._keywords = self._keywords, []
        self._hidden: Tensor | None = None
        self._ended = False
        self._early: set[str] = set()
        self._generator = torch.Generator().manual_seed(seed)

    def end(self, output: Tensor) -> None:
        """Look at what came out of a pass."""
        if not _same(output, self._hidden):
            self.seen.faults["ending"] = "it changes hidden states after its blocks"
        for one, other in zip(self._keywords, self._before, strict=False):
            for name in one:
                if not _same(one[name], other.get(name)):
                    self.seen.faults[name] = "its blocks get something besides hidden states that depends on tokens"

    def _after_block(self, block: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: object) -> object:
        kind = type(block).__name__
        if len(args) != 1 or not all(_is_plain(value) for value in keywords.values()):
            self.seen.faults[f"{kind}:arguments"] = (
                "its blocks get more than hidden states and keywords of plain values"
            )
        if not isinstance(output, Tensor) or output.shape != args[0].shape:
            self.seen.faults[f"{kind}:{type(output).__name__}"] = "its blocks do not return hidden states alone"
            return output
        if self._hidden is not None and not _same(args[0], self._hidden):
            self.seen.faults[f"{kind}:input"] = "it changes hidden states between its blocks"
        self._hidden = args[0]
        self._keywords.append(keywords)
        self._ended = block is self._last
        return args[0]

    def _after_child(self, name: str) -> Any:  # noqa: ANN401 - a hook
        def after(_: nn.Module, args: tuple[Any, ...], output: object) -> object:
            if not self._ended:
                self._early.add(name)
                return output
            if name in self._early:
                self.seen.faults[name] = "it is called before the blocks and after them"
            if name not in self.seen.final:
                self.seen.final.append(name)
            return args[0]

        return after

    def _run_on_meta(self, part: nn.Module) -> None:
        """Let a module with weights compute shapes only, and give random values."""
        if next(part.parameters(), None) is None:
            return
        part.to("meta")
        inner_forward = part.forward

        def forward(*args: Any, **keywords: Any) -> object:  # noqa: ANN401 - whatever transformers passes
            output = inner_forward(*_on_meta(args), **{name: _on_meta(value) for name, value in keywords.items()})
            return self._made_up(output)

        part.forward = forward

    def _made_up(self, value: Any) -> Any:  # noqa: ANN401 - whatever a module returns
        if isinstance(value, tuple):
            return tuple(self._made_up(each) for each in value)
        if not isinstance(value, Tensor):
            return value
        return torch.randn(value.shape, generator=self._generator).to(value.dtype)

    def _watch_linears(self, block: nn.Module) -> None:
        """Note which linears of a block read the very same tensor."""
        inputs: list[Tensor] = []  # kept, so that no tensor gets another one's identity
        readers: list[list[str]] = []

        def listener(name: str) -> Any:  # noqa: ANN401 - a hook
            def listen(_: nn.Module, args: tuple[Tensor, ...]) -> None:
                self.seen.linears.setdefault(name)
                place = next((number for number, each in enumerate(inputs) if each is args[0]), len(inputs))
                if place == len(inputs):
                    inputs.append(args[0])
                    readers.append([])
                    self.seen.read_by.append(readers[place])
                readers[place].append(name)

            return listen

        for name, module in block.named_modules():
            if isinstance(module, nn.Linear):
                module.register_forward_pre_hook(listener(name))


def _on_meta(value: Any) -> Any:  # noqa: ANN401 - whatever transformers passes
    if isinstance(value, tuple):
        return tuple(_on_meta(each) for each in value)
    return value.to("meta") if isinstance(value, Tensor) else value


def _is_plain(value: object) -> bool:
    """Whether a keyword carries nothing from one block to the next."""
    if isinstance(value, tuple):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, Tensor | bool | int | float | str)


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return one == other
