"""The column loop of GPTQ (arXiv 2210.17323, algorithm 1) over one block of columns.

Each column is rounded, and its error, divided by the diagonal of U, is taken out of the block's later columns along U's
row. `gptq_block_reference` says what is computed, in torch; on the CPU the same is done by a compiled loop over rows,
on a GPU by a Triton kernel. All do the same IEEE operations on every weight in the same order, so that their results
are equal bit by bit.
"""

import warnings
from functools import cache
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from saffron_kernels.operands import require_one_device


class GptqBlock(NamedTuple):
    """A block of columns after the loop.

    Attributes:
        codes: [B, R, C] int8.
        W_dequantized: [B, R, C] float32: (code - zero) times scale.
        error: [B, R, C] float32: each column's rounding error over U's diagonal. The caller takes error · U[block,
            later columns] out of the columns after the block.
    """

    codes: Tensor
    W_dequantized: Tensor
    error: Tensor


def gptq_block(  # noqa: PLR0917 - the signature that every kernel of this stem has
    W: Tensor, U: Tensor, scale: Tensor, zero: Tensor | None, group_of_column: Tensor, qmin: int, qmax: int
) -> GptqBlock:
    """Quantize a block of columns, one after the other.

    Nothing that is given is changed. The device of W chooses: on the CPU it is numba's compiled loop, or with a loud
    warning the torch reference where numba can't be imported; on a CUDA device it is the Triton kernel. W may have any
    strides, and is read fastest where it lies column after column in memory, as the results do.

    Args:
        W: [B, R, C] float32 weights, finite.
        U: [B, C, C] float32 upper triangle with Uᵀ U the inverse Hessian, for these columns; below it nothing is read.
        scale: [B, R, G] float32, not 0.
        zero: [B, R, G] float32 zero points in codes, or None for symmetric codes.
        group_of_column: [B, C] int32 in 0..G-1.
        qmin: smallest code, at least -128.
        qmax: largest code, at most 127.

    Raises:
        ValueError: the shapes, types or devices do not fit.
    """
    _check(W, U, scale, zero, group_of_column)
    return GptqBlock(*_gptq_block(W, U, scale, zero, group_of_column, qmin, qmax))


def gptq_block_reference(  # noqa: PLR0917 - as above
    W: Tensor, U: Tensor, scale: Tensor, zero: Tensor | None, group_of_column: Tensor, qmin: int, qmax: int
) -> GptqBlock:
    """What `gptq_block` computes, in plain torch."""
    work = W.clone()
    codes, dequantized, error = torch.empty_like(W, dtype=torch.int8), torch.empty_like(W), torch.empty_like(W)
    for item in range(W.shape[0]):
        for column in range(W.shape[2]):
            group = int(group_of_column[item, column])
            s = scale[item, :, group]
            z = torch.zeros_like(s) if zero is None else zero[item, :, group]
            w = work[item, :, column]
            code = torch.clamp(torch.round(w / s) + z, qmin, qmax)
            q = (code - z) * s
            e = (w - q) / U[item, column, column]
            # Two operations, not a fused one: that would round once instead of twice.
            work[item, :, column + 1 :] -= e[:, None] * U[item, column, column + 1 :]
            codes[item, :, column] = code.to(torch.int8)
            dequantized[item, :, column] = q
            error[item, :, column] = e
    return GptqBlock(codes, dequantized, error)


def _check(W: Tensor, U: Tensor, scale: Tensor, zero: Tensor | None, group_of_column: Tensor) -> None:
    items, rows, columns = W.shape
    wanted = {
        "W": (W, (items, rows, columns), torch.float32),
        "U": (U, (items, columns, columns), torch.float32),
        "scale": (scale, (items, rows, scale.shape[-1]), torch.float32),
        "zero": (scale if zero is None else zero, scale.shape, torch.float32),
        "group_of_column": (group_of_column, (items, columns), torch.int32),
    }
    for name, (tensor, shape, dtype) in wanted.items():
        if tensor.shape != shape or tensor.dtype != dtype:
            raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}; wanted is {dtype} {list(shape)}")
    require_one_device(W, U, scale, zero, group_of_column)


@torch.library.custom_op("saffron::gptq_block", mutates_args=(), device_types="cpu")
def _gptq_block(  # noqa: PLR0917 - as above
    W: Tensor, U: Tensor, scale: Tensor, zero: Tensor | None, group_of_column: Tensor, qmin: int, qmax: int
) -> tuple[Tensor, Tensor, Tensor]:
    loop = _cpu()
    if loop is None:
        outputs = _outputs(W)
        for output, found in zip(
            outputs, gptq_block_reference(W, U, scale, zero, group_of_column, qmin, qmax), strict=True
        ):
            output.copy_(found)
        return outputs
    result: tuple[Tensor, Tensor, Tensor] = loop.gptq_block_rows(W, U, scale, zero, group_of_column, qmin, qmax)
    return result


@cache
def _cpu() -> ModuleType | None:
    try:
        from saffron_kernels import gptq_block_cpu  # noqa: PLC0415 - numba is slow to import, and only needed here
    except ImportError as error:
        warnings.warn(
            f"numba can't be imported ({error}), so GPTQ's column loop runs in plain torch, many times slower",
            stacklevel=2,
        )
        return None
    return gptq_block_cpu


@_gptq_block.register_kernel("cuda")
def _(  # noqa: PLR0917 - as above
    W: Tensor, U: Tensor, scale: Tensor, zero: Tensor | None, group_of_column: Tensor, qmin: int, qmax: int
) -> tuple[Tensor, Tensor, Tensor]:
    from saffron_kernels.gptq_block_triton import gptq_block_launch  # noqa: PLC0415 - needs Triton

    outputs = _outputs(W)
    gptq_block_launch(W, U, scale, zero, group_of_column, qmin, qmax, *outputs).run()
    return outputs


@_gptq_block.register_fake
def _(W: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(W)


def _outputs(W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, dequantized weights and errors to be filled: column after column, as threads or lanes stand for rows."""
    items, rows, columns = W.shape
    shape = (items, columns, rows)
    return W.new_empty(shape, dtype=torch.int8).mT, W.new_empty(shape).mT, W.new_empty(shape).mT
