"""What a product of codes with scales is given, on any device."""

import torch
from torch import Tensor


def require_operands(  # noqa: PLR0917 - in the order of the ops that are given them
    codes: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> None:
    """Refuse operands that do not fit.

    Args:
        codes: [M, K] in `dtype`.
        scale: [M, 1] float32.
        weight: [N, K] in `dtype`.
        weight_scale: [N, 1] float32.
        bias: [N], or None.
        dtype: of codes.

    Raises:
        ValueError: with the name of what has another shape or type.
    """
    (M, K), N = codes.shape, weight.shape[0]
    expected = [
        ("codes", codes, dtype, (M, K)),
        ("scale", scale, torch.float32, (M, 1)),
        ("weight", weight, dtype, (N, K)),
        ("weight_scale", weight_scale, torch.float32, (N, 1)),
    ]
    for name, tensor, wanted, shape in expected:
        if tensor.dtype != wanted or tensor.shape != shape:
            raise ValueError(f"{name} must be {wanted} {shape}, not {tensor.dtype} {tuple(tensor.shape)}")
    if bias is not None and bias.shape != (N,):
        raise ValueError(f"bias must be {(N,)}, not {tuple(bias.shape)}")
