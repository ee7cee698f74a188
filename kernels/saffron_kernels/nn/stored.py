"""The place of a tensor that is loaded as it is stored."""

import torch
from torch import nn


def stored(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    """A parameter on torch's meta device, which takes no memory until `load_state_dict(..., assign=True)`."""
    return nn.Parameter(torch.empty(*shape, dtype=dtype, device="meta"), requires_grad=False)
