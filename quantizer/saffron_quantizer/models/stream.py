"""A causal language model walked block by block: memory holds a few blocks and some activations, never the model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from saffron_quantizer.alongside import ahead
from saffron_quantizer.checkpoint.source import open_source
from saffron_quantizer.models.activations import ActivationMemory, Shelf
from saffron_quantizer.models.batches import Batch, make_batches
from saffron_quantizer.models.compute import compute_dtype
from saffron_quantizer.models.kv_cache import KvCache, with_cache
from saffron_quantizer.models.skeleton import BlockInputs, Skeleton, block_inputs, unload
from saffron_quantizer.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Walk:
    """A walk through a model with some sequences, between two blocks.

    Attributes:
        stream: the model.
        batches: this process's share of the sequences.
        states: what the next block reads, [rows, padded length, hidden] a batch; replaced as the walk goes on.
        memory: where activations are kept.
        ranks: the processes that walk together, each with its share.
        tokens: of the sequences of all of them, without padding.
    """

    stream: "ModelStream"
    batches: Sequence[Batch]
    states: Shelf
    memory: ActivationMemory
    ranks: Ranks
    tokens: int

    @torch.no_grad()
    def advance(self, index: int) -> None:
        """Run block `index`, which is loaded, over all batches."""
        for number in range(len(self.batches)):
            self.states[number] = self.run(index, number)

    def run(self, index: int, number: int, cache: KvCache | None = None) -> Tensor:
        """The output of block `index`, which is loaded, for batch `number`; the walk stays where it is.

        Keys and values go through the cache that is given; by default through the one that the model is served with.
        """
        keywords = self.stream.inputs(index, self.batches[number], cache)
        output: Tensor = self.stream.blocks[index](self.states[number], **keywords)
        return output


class ModelStream:
    """An original, or a checkpoint that we wrote."""

    def __init__(self, skeleton: Skeleton) -> None:
        self._skeleton = skeleton
        self._head: Tensor | None = None
        self._inputs: dict[int, list[BlockInputs]] = {}
        self.architecture = skeleton.architecture
        self.blocks = skeleton.blocks
        self.n_blocks = len(skeleton.blocks)
        self.vocab_size: int = skeleton.config.vocab_size
        self.hidden_size: int = skeleton.config.hidden_size
        self._logit_cap: float | None = getattr(skeleton.config, "final_logit_softcapping", None)

    @staticmethod
    def open(folder: Path, *, dtype: torch.dtype | None = None) -> "ModelStream":
        """Open a model folder.

        A quantized one is computed from its stored codes and scales. Activations, and keys and values on their way into
        the cache, are rounded as engines do.

        Args:
            folder: config.json and safetensors.
            dtype: what is computed in; by default what `compute_dtype` says for the stored type.

        Raises:
            StageError: the folder is missing, unsafe, incomplete, malformed or of an unknown architecture.
        """
        source = open_source(folder)
        return ModelStream(Skeleton(source, dtype or compute_dtype(source.stored_dtype)))

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in."""
        return self._skeleton.dtype

    @torch.no_grad()
    def final_hidden(
        self, sequences: Sequence[Tensor], *, on_block: Callable[[int, int], None] | None = None
    ) -> list[Tensor]:
        """The hidden states after the final norm.

        Args:
            sequences: 1-D int64 token ids, any lengths.
            on_block: called with (blocks done, blocks) after each block.

        Returns:
            For each sequence [T, hidden] in the compute type.
        """
        walk = self.walk(sequences)
        with ahead(self._skeleton.read_block, range(self.n_blocks)) as blocks:
            for index, tensors in enumerate(blocks):
                with self.loaded(index, tensors):
                    walk.advance(index)
                if on_block is not None:
                    on_block(index + 1, self.n_blocks)
        norm = self._skeleton.load_final_norm()
        final: list[Tensor] = [torch.empty(0)] * len(sequences)
        for batch, state in zip(walk.batches, walk.states, strict=True):
            for row, (position, length) in enumerate(zip(batch.positions, batch.lengths, strict=True)):
                final[position] = norm(state[row, :length])
        unload(norm)
        return final

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of final hidden states, [N, hidden] -> [N, vocabulary] float32, capped if the model caps them."""
        return self.cap((hidden.to(self.dtype) @ self.head.T).float())

    @property
    def head(self) -> Tensor:
        """The weight that turns final hidden states into logits, [vocabulary, hidden] in the compute type."""
        if self._head is None:
            self._head = self._skeleton.read_head()
        return self._head

    @property
    def caps_logits(self) -> bool:
        """Whether logits are capped, and so no longer linear in the hidden states."""
        return self._logit_cap is not None

    def cap(self, logits: Tensor) -> Tensor:
        """Cap logits of any shape if the model does."""
        cap = self._logit_cap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    @torch.no_grad()
    def walk(
        self, sequences: Sequence[Tensor], *, memory: ActivationMemory | None = None, ranks: Ranks = ALONE
    ) -> Walk:
        """Embed sequences and stand before the first block.

        Args:
            sequences: 1-D int64 token ids of any lengths, those of all ranks.
            memory: where activations are kept; by default in memory, without a bound.
            ranks: the processes that walk together.
        """
        batches = make_batches(ranks.share(sequences))
        kept = memory or ActivationMemory()
        states = kept.shelf(len(batches))
        embedding = self._skeleton.load_embedding()
        for number, batch in enumerate(batches):
            states[number] = embedding(batch.tokens)
        unload(embedding)
        return Walk(self, batches, states, kept, ranks, tokens=sum(map(len, sequences)))

    @contextmanager
    def loaded(self, index: int, tensors: Mapping[str, Tensor] | None = None) -> Iterator[nn.Module]:
        """A block with its weights, for as long as the context lasts.

        Args:
            index: of the block.
            tensors: its tensors by their names in the checkpoint; read by default.
        """
        block = self._skeleton.load_block(index, self._skeleton.read_block(index) if tensors is None else tensors)
        try:
            yield block
        finally:
            unload(block)

    def inputs(self, index: int, batch: Batch, cache: KvCache | None = None) -> dict[str, object]:
        """What block `index` is called with besides a batch's hidden states."""
        length = batch.tokens.shape[1]
        if length not in self._inputs:
            self._inputs[length] = block_inputs(self._skeleton, length)
        keywords = self._inputs[length][index].keywords
        if cache is None and self._skeleton.kv_caches is not None:
            cache = self._skeleton.kv_caches[index]
        return keywords if cache is None else with_cache(keywords, cache, self.architecture.block(index))
