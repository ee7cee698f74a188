"""Learned rounding: AutoRound (Optimize Weight Rounding via Signed Gradient Descent, arXiv 2309.05516) of one block.

Each weight w has an offset V in [-0.5, 0.5] inside the rounding, and each group may have a factor a of its scale s:

    q = clamp(rint(w / (a s) + V), low, high),  weight = q · a s

The signs of the gradient of the block's error by the weights move V and a (SignSGD, a rate of 1 / steps that falls to 0
linearly); the gradient goes through rint as if it changed nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from saffron_quantizer.algorithms.quantized import Grid, Quantized

AT_ONCE = 4
LEAST_CLIP = 0.5
INSIDE = 0.49
"""How far from its code a weight lies at most when learning starts, so that rounding gives that code."""

Forward = Callable[[Mapping[str, Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """How rounding is learned.

    Attributes:
        steps: of SignSGD, 0 for none.
        clip: whether a factor of each scale is learned, too.
        relative: whether each token's error counts relative to the size of its target, and not as it is. The first
            token's hidden state is so large that its error would be nearly all there is.
        pull: 0 to 1, where between its code and itself a weight lies when learning starts from another code than the
            nearest: it decides how soon a step may undo what GPTQ did.
    """

    steps: int
    clip: bool = False
    relative: bool = True
    pull: float = 1.0


@dataclass
class LearnedLinear:
    """A linear whose rounding is learned.

    Attributes:
        start: what learning starts from.
        grid: what the weights are rounded to.
        aim: [R, G, g] float32, the weights over the start's scales.
        offset: [R, G, g] float32, V.
        factor: [R, G, 1] float32, of the scales.
    """

    start: Quantized
    grid: Grid
    aim: Tensor
    offset: Tensor = field(init=False)
    factor: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Begin at the start's codes and scales."""
        self.offset = torch.zeros_like(self.aim)
        self.factor = torch.ones(*self.aim.shape[:2], 1)

    @staticmethod
    def of(W: Tensor, start: Quantized, grid: Grid, pull: float) -> "LearnedLinear":
        """Stand at a start's codes, [R, C] weights; each may come to a neighbouring code."""
        scale = start.scale.float()[:, :, None]
        codes = start.codes.float().unflatten(1, (scale.shape[1], -1))
        apart = W.float().unflatten(1, (scale.shape[1], -1)) / scale - codes
        return LearnedLinear(start, grid, codes + apart.clamp_(-INSIDE, INSIDE) * pull)

    def quantized(self) -> Quantized:
        """As it is now."""
        scale = (self.start.scale.float() * self.factor[:, :, 0]).to(self.start.scale.dtype)
        codes = self._rounded().clamp_(self.grid.low, self.grid.high)
        return Quantized(codes.flatten(1).to(torch.int8), scale)

    def move(self, gradient: Tensor, rate: float, *, clip: bool) -> None:
        """Step against the signs of the error's gradient, as if rounding changed nothing.

        Args:
            gradient: by the weights, [R, C].
            rate: length of the step.
            clip: whether the factors move, too.
        """
        g = gradient.float().view_as(self.aim)
        if clip:
            rounded = self._rounded()
            codes = rounded.clamp(self.grid.low, self.grid.high)
            # A weight beyond the last code moves with its scale; any other only by what rounding makes of it.
            slope = codes - torch.where(codes == rounded, self.aim / self.factor, 0.0)
            self.factor.sub_((g * slope).sum(2, keepdim=True).sign_(), alpha=rate).clamp_(LEAST_CLIP, 1.0)
        self.offset.sub_(g.sign_(), alpha=rate).clamp_(-0.5, 0.5)

    def _rounded(self) -> Tensor:
        return (self.aim / self.factor).add_(self.offset).round_()


@dataclass(frozen=True)
class Block:
    """What one block is taught with.

    Attributes:
        forward: its output with other weights, from hidden states.
        inputs: [sequences, length, hidden], of the quantized stream.
        targets: as large, what the original gives.
        weight: [sequences, length, 1] float32, how much the squared error of a token counts.
    """

    forward: Forward
    inputs: Tensor
    targets: Tensor
    weight: Tensor

    def error(self, weights: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """The mean squared error of some sequences."""
        apart = self.forward(weights, self.inputs[rows]).float() - self.targets[rows].float()
        return (apart.square() * self.weight[rows]).mean()

    @torch.no_grad()
    def whole_error(self, quantized: Mapping[str, Quantized]) -> float:
        """Of all sequences."""
        weights = {name: each.dequantize() for name, each in quantized.items()}
        parts = torch.arange(len(self.inputs)).split(AT_ONCE)
        return sum(self.error(weights, rows).item() * len(rows) for rows in parts) / len(self.inputs)


def learn(block: Block, linears: Mapping[str, LearnedLinear], setting: Setting) -> tuple[dict[str, Quantized], float]:
    """Learn a block's rounding.

    Returns:
        Its linears, and their error over that of the start, 1 where the start is kept.
    """
    start = {name: linear.start for name, linear in linears.items()}
    generator = torch.Generator().manual_seed(0)
    for step in range(setting.steps):
        rows = torch.randperm(len(block.inputs), generator=generator)[:AT_ONCE]
        weights = {name: linear.quantized().dequantize().requires_grad_() for name, linear in linears.items()}
        gradients = torch.autograd.grad(block.error(weights, rows), list(weights.values()))
        rate = (1 - step / setting.steps) / setting.steps
        for linear, gradient in zip(linears.values(), gradients, strict=True):
            linear.move(gradient, rate, clip=setting.clip)
    found = {name: linear.quantized() for name, linear in linears.items()}
    ratio = block.whole_error(found) / block.whole_error(start)
    return (found, ratio) if ratio < 1 else (start, 1.0)
