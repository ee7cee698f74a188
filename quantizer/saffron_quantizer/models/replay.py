"""A few sequences in front of one block, and what its modules read and gave for them, to run parts of it again.

A search runs the same module over and over, with other weights each time. It needs no more of the calibration set than
what tells its choices apart: some sequences, cut to their first tokens, which in a causal model come out the same.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saffron_quantizer.models.batches import Batch
from saffron_quantizer.models.stream import ModelStream, Walk
from saffron_quantizer.ranks import Ranks

SEARCH_TOKENS = 4096
"""Tokens that a search looks at. Part of what fixes the bytes."""
_LENGTH = 512


@dataclass(frozen=True)
class Call:
    """One call of a module.

    Attributes:
        args: what it was given by position.
        keywords: what it was given by name.
        output: its hidden states, [rows, tokens, d].
    """

    args: tuple[Any, ...]
    keywords: Mapping[str, Any]
    output: Tensor

    @property
    def tokens(self) -> Tensor:
        """Its input, a token a row: [N, d]."""
        x: Tensor = self.args[0] if self.args else self.keywords["hidden_states"]
        return x.reshape(-1, x.shape[-1])


@dataclass(frozen=True)
class Sample:
    """Some sequences, without padding, that stand before a block.

    Attributes:
        stream: the model.
        batch: the sequences, all of one length.
        states: what the block reads, [rows, length, hidden].
        ranks: the processes that search together, each in its own sample.
    """

    stream: ModelStream
    batch: Batch
    states: Tensor
    ranks: Ranks

    def run(self, index: int) -> Tensor:
        """The output of block `index`, which is loaded."""
        output: Tensor = self.stream.blocks[index](self.states, **self.stream.inputs(index, self.batch))
        return output


def take_sample(walk: Walk) -> Sample:
    """Some of a walk's sequences, where it stands.

    Their length is the median one, at most 512. Of the sequences that are at least as long, so many are taken that they
    have about `SEARCH_TOKENS` tokens, in equal steps over all of them: nothing is drawn by chance.
    """
    rows = [
        (position, number, row, length)
        for number, batch in enumerate(walk.batches)
        for row, (position, length) in enumerate(zip(batch.positions, batch.lengths, strict=True))
    ]
    lengths = sorted(length for *_, length in rows)
    length = min(lengths[len(lengths) // 2], _LENGTH)
    long_enough = sorted(row for row in rows if row[3] >= length)
    count = min(len(long_enough), max(SEARCH_TOKENS // length, 1))
    taken = [long_enough[index * len(long_enough) // count] for index in range(count)]
    tokens = torch.stack([walk.batches[number].tokens[row, :length] for _, number, row, _ in taken])
    states = torch.stack([walk.states[number][row, :length] for _, number, row, _ in taken])
    return Sample(walk.stream, Batch(tuple(range(count)), (length,) * count, tokens), states, walk.ranks)


@torch.no_grad()
def record(block: nn.Module, modules: Collection[str], run: Callable[[], object]) -> dict[str, Call]:
    """Keep the calls of modules, by their names inside a block, while something runs.

    A module that is not called is left out.
    """
    calls: dict[str, Call] = {}

    def listener(name: str) -> Callable[..., None]:
        def listen(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: object) -> None:
            calls[name] = Call(args, keywords, _hidden(output))

        return listen

    with ExitStack() as stack:
        for name in modules:
            handle = block.get_submodule(name).register_forward_hook(listener(name), with_kwargs=True)
            stack.callback(handle.remove)
        run()
    return calls


@torch.no_grad()
def replay(block: nn.Module, parent: str, call: Call, products: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
    """Run a module of a block again, with something else in place of some of its linears.

    Args:
        block: the block.
        parent: the module's name inside it.
        call: the call to make again.
        products: for linears in the module, by their names inside the block: what gives their output for their input.

    Returns:
        Its hidden states, [rows, tokens, d].
    """
    with ExitStack() as stack:
        for name, product in products.items():
            linear = block.get_submodule(name)
            linear.forward = product
            # What stood before is the class's, which comes to light again.
            stack.callback(delattr, linear, "forward")
        return _hidden(block.get_submodule(parent)(*call.args, **call.keywords))


def _hidden(output: object) -> Tensor:
    """The hidden states in what a module returns: attention gives its weights besides."""
    found: Tensor = output[0] if isinstance(output, tuple) else output  # type: ignore[assignment]
    return found
