"""What the experts of one block read, for their Hessians.

A router is never quantized, and no expert reads what another one makes. So the tokens of a mixture and their routing
are the same whichever of its experts are quantized, and the block need run only once for all of them.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from saffron_quantizer.algorithms.hessian import add_to_gram, empty_gram
from saffron_quantizer.models.architectures import Mixture
from saffron_quantizer.models.batches import Batch
from saffron_quantizer.models.gram import Gram
from saffron_quantizer.models.listening import first_call

MIN_EXPERT_TOKENS = 256
"""An expert that the router gives fewer tokens is calibrated on all tokens of its mixture.

A diagonal entry of a Hessian is a variance; estimated from n tokens it has the relative standard error sqrt(2 / n), at
256 tokens 9 %. With fewer, scales and rounding follow chance. The tokens of the other experts are another sample than
what this one will read, but no accident.
"""


class ExpertCalibration:
    """The experts of a loaded block, before and while they are quantized one after the other."""

    def __init__(
        self,
        block: nn.Module,
        mixture: Mixture,
        batches: Sequence[Batch],
        run: Callable[[int], object],
        *,
        keep: bool,
    ) -> None:
        """Count the tokens of each expert.

        Args:
            block: the block, whose linears before the mixture are quantized.
            mixture: of its architecture.
            batches: what it is calibrated on.
            run: runs the block over the batch of a number.
            keep: whether the mixture's tokens may stay in memory. It changes the time and no bit of the result.
        """
        self._block = block
        self._mixture = mixture
        self._experts = block.get_submodule(mixture.experts)
        self._batches = batches
        self._run = run
        self._kept: list[tuple[Tensor, Tensor]] | None = None
        self._of_all: Gram | None = None
        self._seen = torch.zeros(len(list(self._experts.children())), dtype=torch.int64)
        kept = []
        for hidden, chosen in self._routed():
            self._seen += torch.bincount(chosen.flatten(), minlength=len(self._seen))
            if keep:
                kept.append((hidden, chosen))
        self._kept = kept or None

    def gram(self, linear: str) -> Gram:
        """Sum xᵀx of the tokens that one linear of an expert reads, once those before it are quantized.

        Args:
            linear: its name inside the block.
        """
        name = self._mixture.expert_of(linear)
        if name is None:
            raise ValueError(f"{linear} is part of no expert")
        few = bool(self._seen[int(name.rpartition(".")[2])] < MIN_EXPERT_TOKENS)
        is_first = not linear.endswith(f".{self._mixture.down}")
        if few and is_first and self._of_all is not None:
            return self._of_all
        gram = self._sum(name, linear, few=few)
        if few and is_first:
            # Whichever expert it is, it reads all tokens.
            self._of_all = gram
        return gram

    def _sum(self, name: str, linear: str, *, few: bool) -> Gram:
        expert, module = self._block.get_submodule(name), self._block.get_submodule(linear)
        number = int(name.rpartition(".")[2])
        total, tokens = empty_gram(module.get_parameter("weight").shape[1]), 0
        for hidden, chosen in self._routed():
            read = hidden if few else hidden[(chosen == number).any(dim=1)]
            if len(read):
                (x,) = first_call(module, lambda read=read: expert(read))  # type: ignore[misc]
                add_to_gram(x, total)
                tokens += len(read)
        return Gram(total, tokens, of_all_tokens=few)

    def _routed(self) -> Iterator[tuple[Tensor, Tensor]]:
        """For each batch what the mixture reads, [tokens, hidden], and the experts of each token, [tokens, k]."""
        if self._kept is not None:
            yield from self._kept
            return
        for index, batch in enumerate(self._batches):
            hidden, chosen, _ = first_call(self._experts, lambda index=index: self._run(index))  # type: ignore[misc]
            real = batch.real.flatten()
            yield hidden[real], chosen[real]
