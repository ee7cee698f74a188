"""A model's last layer alone: what comparisons of distributions read of a model."""

from dataclasses import dataclass

import torch


@dataclass
class Head:
    """The part of a ModelStream that turns hidden states into logits."""

    head: torch.Tensor
    softcap: float | None = None

    @property
    def vocab_size(self):
        return len(self.head)

    @property
    def dtype(self):
        return self.head.dtype

    @property
    def device(self):
        return self.head.device

    @property
    def caps_logits(self):
        return self.softcap is not None

    def cap(self, logits):
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap
