"""A causal language model walked block by block: memory holds a few blocks and some activations, never the model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from saffron_quantizer.alongside import ahead
from saffron_quantizer.checkpoint.source import open_source
from saffron_quantizer.models.activations import ActivationMemory, Shelf
from saffron_quantizer.models.batches import Batch, make_batches
from saffron_quantizer.models.compute import CPU, compute_dtype, kept_dtype
from saffron_quantizer.models.kept_values import rounding_kept_values
from saffron_quantizer.models.kv_cache import KvCache, with_cache
from saffron_quantizer.models.liveness import Readers, readers_of_parts
from saffron_quantizer.models.skeleton import BlockInputs, Embedding, Skeleton, unload
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

    def shelf(self) -> Shelf:
        """Room for a tensor of each batch, which comes out where the model computes."""
        return self.memory.shelf(len(self.batches), self.stream.device, self.stream.kept)

    def fork(self) -> "Walk":
        """Another walk that stands where this one does, and goes on by itself."""
        states = self.shelf()
        for number, state in enumerate(self.states):
            states[number] = state
        return replace(self, states=states)

    @torch.no_grad()
    def advance(self, index: int) -> None:
        """Run block `index`, which is loaded, over all batches."""
        for number in range(len(self.batches)):
            self.states[number] = self.run(index, number)

    @torch.no_grad()
    def readers(self, index: int) -> Readers:
        """Which parts of block `index`, which is loaded, read what its others give; blocks of one kind are alike."""
        kind = tuple((part, type(module)) for part, module in self.stream.blocks[index].named_children())
        known = self.stream.readers
        if kind not in known and len(self.batches) > 0:
            # One sequence tells as much as all.
            row, keywords = self.states[0][:1], self.stream.inputs(index, self.batches[0])
            known[kind] = readers_of_parts(
                self.stream.blocks[index], lambda: self.stream.blocks[index](row, **keywords)
            )
        return known.get(kind, {})

    def run(self, index: int, number: int, cache: KvCache | None = None) -> Tensor:
        """The output of block `index`, which is loaded, for batch `number`; the walk stays where it is.

        Keys and values go through the cache that is given; by default through the one that the model is served with.
        """
        keywords = self.stream.inputs(index, self.batches[number], cache)
        stream, block = self.stream, self.stream.blocks[index]
        wider = stream.kept != stream.dtype
        with rounding_kept_values(block, stream.architecture.sublayers, stream.kept) if wider else nullcontext():
            output: Tensor = block(self.states[number], **keywords)
        return output


class ModelStream:
    """An original, or a checkpoint that we wrote."""

    def __init__(self, skeleton: Skeleton, kept: torch.dtype) -> None:
        self._skeleton = skeleton
        self.kept = kept  # the type in which activations are kept
        self._head: Tensor | None = None
        self._inputs: dict[int, list[BlockInputs]] = {}
        self.readers: dict[tuple[tuple[str, type[nn.Module]], ...], Readers] = {}
        self.architecture = skeleton.architecture
        self.blocks = skeleton.blocks
        self.n_blocks = len(skeleton.blocks)
        self.vocab_size: int = skeleton.config.vocab_size
        self.hidden_size: int = skeleton.config.hidden_size
        self.config = skeleton.config
        self._logit_cap: float | None = getattr(skeleton.config, "final_logit_softcapping", None)

    @staticmethod
    def open(folder: Path, *, dtype: torch.dtype | None = None, device: torch.device = CPU) -> "ModelStream":
        """Open a model folder.

        A quantized one is computed from its stored codes and scales. Activations, and keys and values on their way into
        the cache, are rounded as engines do.

        Args:
            folder: config.json and safetensors.
            dtype: what is computed in, and activations are kept in; by default what `compute_dtype` and `kept_dtype`
                say for the stored type.
            device: where blocks are computed, and what comes after them.

        Raises:
            StageError: the folder is missing, unsafe, incomplete, malformed or of an unknown architecture.
        """
        source = open_source(folder)
        computed = dtype or compute_dtype(source.stored_dtype, device)
        return ModelStream(Skeleton(source, computed, device), dtype or kept_dtype(source.stored_dtype, computed))

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in."""
        return self._skeleton.dtype

    @property
    def device(self) -> torch.device:
        """Where blocks are computed."""
        return self._skeleton.device

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
        return self.final(walk)

    @torch.no_grad()
    def final(self, walk: Walk) -> list[Tensor]:
        """The hidden states after what follows the last block, [T, hidden] for each sequence of a walk past it.

        They lie in the system's memory, as all that is kept does: a card need not have room for those of all sequences.
        """
        final: list[Tensor] = [torch.empty(0)] * sum(len(batch.positions) for batch in walk.batches)
        with self._skeleton.ending() as ending:
            for batch, state in zip(walk.batches, walk.states, strict=True):
                for row, (position, length) in enumerate(zip(batch.positions, batch.lengths, strict=True)):
                    final[position] = ending(state[row, :length]).to(CPU)
        return final

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of final hidden states, [N, hidden] -> [N, vocabulary] float32, capped if the model caps them."""
        return self.cap((hidden.to(self.device, self.dtype) @ self.head.T).float())

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

        Raises:
            StageError: `SPEC_INVALID` if a sequence has more tokens than the model has positions.
        """
        self._skeleton.require_positions(max(len(sequence) for sequence in sequences))
        batches = make_batches(ranks.share(sequences), limits=self._skeleton.length_limits)
        memory = memory or ActivationMemory()
        states = memory.shelf(len(batches), self.device, self.kept)
        with self._skeleton.embedding(batch.tokens for batch in batches) as embedding:
            for number, batch in enumerate(batches):
                self._remember_inputs(embedding, batch)
                states[number] = embedding.hidden(batch.tokens)
        return Walk(self, batches, states, memory, ranks, tokens=sum(map(len, sequences)))

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
        if batch.tokens.shape[1] not in self._inputs:
            with self._skeleton.embedding([batch.tokens[:1]]) as embedding:
                self._remember_inputs(embedding, batch)
        keywords = self._inputs[batch.tokens.shape[1]][index].keywords
        if cache is None and self._skeleton.kv_caches is not None:
            cache = self._skeleton.kv_caches[index]
        return keywords if cache is None else with_cache(keywords, cache, self.architecture.block(index))

    def _remember_inputs(self, embedding: Embedding, batch: Batch) -> None:
        length = batch.tokens.shape[1]
        if length not in self._inputs:
            self._inputs[length] = embedding.inputs(batch.tokens[:1])
