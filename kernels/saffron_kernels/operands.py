"""What ops are given, on any device, and above all products of codes with scales."""

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float16, torch.bfloat16)
"""The types of weights, of tokens and of what ops write for them."""


def require_one_device(first: Tensor, *others: Tensor | None) -> None:
    """Refuse tensors of which one lies elsewhere.

    Where one is on the meta device, as a module's that was never loaded, torch asks an op for the shape of its result
    alone, and gives back memory in which anything may stand. A compiled loop would read at address 0.

    Raises:
        ValueError: with two devices.
    """
    for other in others:
        # Most lie on the CPU, and to ask for a device takes longer than whether it is that one.
        if other is not None and not (first.is_cpu and other.is_cpu) and other.device != first.device:
            raise ValueError(f"tensors have to be on one device, not on {first.device} and {other.device}")


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
        ValueError: with the name of what has another shape or type, or with two devices.
    """
    require_one_device(codes, scale, weight)
    M, K = codes.shape
    _require("codes", codes, dtype, (M, K))
    _require("scale", scale, torch.float32, (M, 1))
    require_weight(K, weight, weight_scale, bias, dtype)


def require_weight(K: int, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
    """Refuse weights that do not fit.

    Args:
        K: columns of the tokens.
        weight: [N, K] in `dtype`.
        weight_scale: [N, 1] float32.
        bias: [N], or None.
        dtype: of codes.

    Raises:
        ValueError: with the name of what has another shape or type, or with two devices.
    """
    require_one_device(weight, weight_scale, bias)
    N = weight.shape[0]
    _require("weight", weight, dtype, (N, K))
    _require("weight_scale", weight_scale, torch.float32, (N, 1))
    if bias is not None and bias.shape != (N,):
        raise ValueError(f"bias must be {(N,)}, not {tuple(bias.shape)}")


def require_out_dtype(dtype: torch.dtype) -> None:
    """Refuse a type that no product is written in, with a ValueError."""
    if dtype not in FLOATING:
        raise ValueError(f"a product is written in float32, float16 or bfloat16, not in {dtype}")


def _require(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype or tensor.shape != shape:
        raise ValueError(f"{name} must be {dtype} {shape}, not {tensor.dtype} {tuple(tensor.shape)}")
