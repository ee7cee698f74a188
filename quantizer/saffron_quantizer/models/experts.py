"""The experts of a mixture as linears of their own, under the names that they have in the file.

transformers joins all experts of a block to one tensor for each projection, which no hook sees and no precision of a
single linear fits. Its routing stays; what it hands to its own experts, it hands to these.
"""

import torch
from torch import Tensor, nn

from saffron_quantizer.models.architectures import Mixture


class Expert(nn.Module):
    """y = down(act(gate(x)) * up(x))."""

    def __init__(self, mixture: Mixture, hidden: int, inner: int, activation: nn.Module, dtype: torch.dtype) -> None:
        """Make the linears on torch's meta device, [inner, hidden] twice and [hidden, inner]."""
        super().__init__()
        self._names = mixture.gate, mixture.up, mixture.down
        self.activation = activation
        for name, outputs, inputs in zip(self._names, (inner, inner, hidden), (hidden, hidden, inner), strict=True):
            self.add_module(name, nn.Linear(inputs, outputs, bias=False, dtype=dtype, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]."""
        gate, up, down = (self.get_submodule(name) for name in self._names)
        y: Tensor = down(self.activation(gate(x)) * up(x))
        return y


class UnpackedExperts(nn.ModuleList):
    """All experts of a block, called as transformers calls its joined ones."""

    def forward(self, hidden: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """Add up what the chosen experts make of each token, in the order of their numbers.

        Args:
            hidden: [tokens, hidden].
            chosen: [tokens, k] int64, numbers of experts.
            shares: [tokens, k], what each one's output is multiplied with.

        Returns:
            [tokens, hidden].
        """
        total = torch.zeros_like(hidden)
        for number in sorted(set(chosen.flatten().cpu().tolist())):
            tokens, rank = torch.where(chosen == number)
            y = self[number](hidden[tokens]) * shares[tokens, rank, None]
            total.index_add_(0, tokens, y.to(total.dtype))
        return total


def unpack(block: nn.Module, mixture: Mixture, dtype: torch.dtype) -> None:
    """Put linears of their own in the place of a block's joined experts, if it has some.

    Raises:
        TypeError: transformers' module is not of the kind that this knows.
    """
    modules = dict(block.named_modules())
    if mixture.experts not in modules:
        return
    joined = modules[mixture.experts]
    # [experts, 2 · inner, hidden], gate above up, and [experts, hidden, inner].
    shapes = {name: tuple(parameter.shape) for name, parameter in joined.named_parameters()}
    count, hidden, inner = shapes.get("down_proj", (0, 0, 0))
    if shapes != {"gate_up_proj": (count, 2 * inner, hidden), "down_proj": (count, hidden, inner)}:
        raise TypeError(f"{type(joined).__name__} has the tensors {shapes}; the table of architectures is wrong")
    activation = joined.get_submodule("act_fn")
    experts = UnpackedExperts(Expert(mixture, hidden, inner, activation, dtype) for _ in range(count))
    parent, _, leaf = mixture.experts.rpartition(".")
    setattr(block.get_submodule(parent), leaf, experts)
