"""What the experts of one block read, for their Hessians.

A router is never quantized, and no expert reads what another one makes. So the tokens of a mixture and their routing
are the same whichever of its experts are quantized, and the block need run only once for all of them.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from saffron_quantizer.models.architectures import Mixture
from saffron_quantizer.models.listening import first_call
from saffron_quantizer.models.stream import Walk

MIN_EXPERT_TOKENS = 256
"""An expert that the router gives fewer tokens is calibrated on all tokens of its mixture.

A diagonal entry of a Hessian is a variance; estimated from n tokens it has the relative standard error sqrt(2 / n), at
256 tokens 9 %. With fewer, scales and rounding follow chance. The tokens of the other experts are another sample than
what this one will read, but no accident.
"""


class ExpertCalibration:
    """The experts of a loaded block, before and while they are quantized one after the other."""

    def __init__(self, block: nn.Module, mixture: Mixture, walk: Walk, run: Callable[[int], object]) -> None:
        """Keep what the mixture reads, and count the tokens of each expert.

        Args:
            block: the block, whose linears before the mixture are quantized.
            mixture: of its architecture.
            walk: that stands before the block.
            run: runs the block over the batch of a number.
        """
        self._block = block
        self._mixture = mixture
        self._ranks = walk.ranks
        experts = block.get_submodule(mixture.experts)
        self._hidden = walk.shelf()  # [tokens, hidden] a batch
        self._chosen = walk.shelf()  # [tokens, k] a batch, the experts of each token
        seen = torch.zeros(len(list(experts.children())), dtype=torch.int64)
        for number, batch in enumerate(walk.batches):
            hidden, chosen, _ = first_call(experts, lambda number=number: run(number))  # type: ignore[misc]
            real = batch.real.flatten()
            self._hidden[number], self._chosen[number] = hidden[real], chosen[real]
            seen += torch.bincount(chosen[real].flatten(), minlength=len(seen)).cpu()
        self._seen = walk.ranks.sum(seen)

    def sees_few(self, linear: str) -> bool:
        """Whether the expert that a linear is part of is sent too few tokens."""
        return bool(self._seen[self._number(linear)] < MIN_EXPERT_TOKENS)

    def listen(self, linear: str, take: Callable[[Tensor], None]) -> int:
        """Hand over what a linear of an expert reads, [tokens, d] of each batch, once those before it are quantized.

        Args:
            linear: its name inside the block.
            take: gets the tokens.

        Returns:
            How many tokens that were, in all ranks.
        """
        number, few = self._number(linear), self.sees_few(linear)
        expert = self._block.get_submodule(f"{self._mixture.experts}.{number}")
        module = self._block.get_submodule(linear)
        tokens = 0
        for hidden, chosen in zip(self._hidden, self._chosen, strict=True):
            read = hidden if few else hidden[(chosen == number).any(dim=1)]
            if len(read):
                (x,) = first_call(module, lambda read=read: expert(read))  # type: ignore[misc]
                take(x)
                tokens += len(read)
        return int(self._ranks.sum(torch.tensor([tokens])))

    def _number(self, linear: str) -> int:
        name = self._mixture.expert_of(linear)
        if name is None:
            raise ValueError(f"{linear} is part of no expert")
        return int(name.rpartition(".")[2])
