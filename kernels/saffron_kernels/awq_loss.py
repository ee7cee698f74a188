"""What rounding a matrix costs at its output once its columns are scaled, as AWQ weighs scales (arXiv 2306.00978).

For weights W [R, C], scales s of the columns and the Hessian H of the input, up to a factor the sum of xᵀx:

    ΔW   = Q(W · s) / s - W              equation 4
    loss = ΔW H ΔWᵀ of each row          |x ΔWᵀ|² summed over the tokens

Q rounds to nearest with min-max scales, as `scale_search`, `quantize_pack` and `dequantize` do. Neither the scaled
matrix nor ΔW is ever there as a whole, and of H no more than the lower triangle is read.

ΔW is equal bit by bit wherever it is computed. The products with H are sums of float32 in an order that each device
chooses (on a card with three TF32 products for each), so losses agree to some 1e-5 of ΔW |H| ΔWᵀ.
"""

import torch
from torch import Tensor

from saffron_kernels.dequantize import dequantize_reference
from saffron_kernels.operands import require_one_device
from saffron_kernels.quantize_pack import quantize_pack_reference, require_bits
from saffron_kernels.scale_search import scale_search_reference


def awq_loss(
    W: Tensor, s: Tensor, H: Tensor, *, bits: int, group_size: int, scale_dtype: torch.dtype, symmetric: bool = True
) -> Tensor:
    """The loss of one candidate.

    Args:
        W: [R, C] finite, float32, bfloat16 or float16.
        s: [C] float32, above 0.
        H: [C, C] float32; what is above the diagonal is not read.
        bits: width of a code, 4 or 8.
        group_size: neighbouring columns that share a scale: 16, 32, 64 or 128; divides C.
        scale_dtype: of the stored scales, and of the weights that they give: float32, bfloat16 or float16.
        symmetric: whether codes lie around 0; else each group has a zero point.

    Returns:
        [R] float32.

    Raises:
        ValueError: shapes, types or devices do not fit, or no such groups or codes.
    """
    require_bits(bits)
    columns = W.shape[1]
    if group_size not in {16, 32, 64, 128} or columns % group_size:
        raise ValueError(f"{columns} columns are not divided into groups of {group_size}")
    fits = s.shape == (columns,) and H.shape == (columns, columns)
    if not fits or {s.dtype, H.dtype} != {torch.float32}:
        s_is, H_is = (f"{each.dtype} {tuple(each.shape)}" for each in (s, H))
        raise ValueError(f"scales {s_is} and a Hessian {H_is} do not fit {columns} columns")
    require_one_device(W, s, H)
    loss: Tensor = _awq_loss(W, s, H, bits, group_size, scale_dtype, symmetric)
    return loss


def awq_loss_reference(
    W: Tensor, s: Tensor, H: Tensor, *, bits: int, group_size: int, scale_dtype: torch.dtype, symmetric: bool = True
) -> Tensor:
    """What `awq_loss` computes, in plain torch."""
    scaled = W.float() * s
    scales = scale_search_reference(
        scaled, (1.0,), bits=bits, group_size=group_size, scale_dtype=scale_dtype, symmetric=symmetric
    )
    codes = quantize_pack_reference(scaled, *scales, bits)
    change = dequantize_reference(codes, *scales, W.shape[1]).float() / s - W.float()
    lower = torch.tril(H)
    return (change @ (lower + torch.tril(H, -1).T) * change).sum(dim=1)


@torch.library.custom_op("saffron::awq_loss", mutates_args=(), device_types="cpu")
def _awq_loss(  # noqa: PLR0917 - an operator's arguments have positions
    W: Tensor,
    s: Tensor,
    H: Tensor,
    bits: int,
    group_size: int,
    scale_dtype: torch.dtype,
    symmetric: bool,  # noqa: FBT001 - an operator's arguments have positions
) -> Tensor:
    from saffron_kernels import awq_loss_cpu  # noqa: PLC0415 - numba is slow to import

    return awq_loss_cpu.awq_loss(
        W, s, H, bits=bits, group_size=group_size, scale_dtype=scale_dtype, symmetric=symmetric
    )


@_awq_loss.register_kernel("cuda")
def _(  # noqa: PLR0917 - as above
    W: Tensor,
    s: Tensor,
    H: Tensor,
    bits: int,
    group_size: int,
    scale_dtype: torch.dtype,
    symmetric: bool,  # noqa: FBT001 - as above
) -> Tensor:
    from saffron_kernels.awq_loss_triton import awq_loss_launch, panels  # noqa: PLC0415 - Triton is for cards alone

    parts = W.new_empty(W.shape[0], panels(W.shape[1], group_size), dtype=torch.float32)
    awq_loss_launch(
        W, s, H, parts, bits=bits, group_size=group_size, scale_dtype=scale_dtype, symmetric=symmetric
    ).run()
    return parts.sum(dim=1)


@_awq_loss.register_fake
def _(  # noqa: PLR0917 - as above
    W: Tensor,
    s: Tensor,  # noqa: ARG001 - there is one loss for each row
    H: Tensor,  # noqa: ARG001
    bits: int,  # noqa: ARG001
    group_size: int,  # noqa: ARG001
    scale_dtype: torch.dtype,  # noqa: ARG001
    symmetric: bool,  # noqa: ARG001, FBT001
) -> Tensor:
    return W.new_empty(W.shape[0], dtype=torch.float32)
