"""Which parts of a block read what its others give."""

import torch
from torch import nn

from saffron_quantizer.models.liveness import readers_of_parts


class Pair(nn.Module):
    """An attention that gives its weights besides."""

    def forward(self, x):
        return x + 1, None


class Sequential(nn.Module):
    """x + after(attention(norm(x))), then an MLP beside it whose input nobody else reads."""

    def __init__(self):
        super().__init__()
        self.norm, self.attention, self.after = nn.LayerNorm(4), Pair(), nn.Linear(4, 4)
        self.before, self.mlp, self.unused = nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        attended, _ = self.attention(self.norm(x))
        x = x + self.after(attended)
        return x + self.mlp(self.before(x))


class Parallel(nn.Module):
    """A norm that attention and MLP share, and that the block's own code reads, too."""

    def __init__(self):
        super().__init__()
        self.norm, self.attention, self.mlp = nn.LayerNorm(4), Pair(), nn.Linear(4, 4)

    def forward(self, x):
        x = self.norm(x)
        attended, _ = self.attention(x)
        return torch.cat([attended, self.mlp(x), x])


def test_each_part_is_read_by_those_that_compute_from_it():
    block = Sequential()
    assert readers_of_parts(block, lambda: block(torch.randn(3, 4))) == {
        "norm": {"attention"},
        "attention": {"after"},
        "after": {None},
        "before": {"mlp"},
        "mlp": {None},
        "unused": set(),
    }


def test_what_the_block_itself_reads_and_what_several_read_is_told():
    block = Parallel()
    assert readers_of_parts(block, lambda: block(torch.randn(3, 4))) == {
        "norm": {"attention", "mlp", None},
        "attention": {None},
        "mlp": {None},
    }


def test_watching_leaves_the_block_as_it_was():
    block, x = Sequential(), torch.randn(3, 4)
    before = block(x)
    readers_of_parts(block, lambda: block(x))
    assert torch.equal(block(x), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in block.modules())
