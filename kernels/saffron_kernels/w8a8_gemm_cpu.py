"""`w8a8_gemm` on the CPU, by the fastest way this processor has that has shown itself exact.

Integer products have been wrong on processors whose vector instructions saturate (torch._int_mm without VNNI,
https://github.com/pytorch/pytorch/issues/136746), and a wrong sum looks like a bad checkpoint. So a way is tried on
numbers at which that shows, once a process, before it is used.
"""

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from saffron_kernels.compiled import features
from saffron_kernels.int8_blocks import AVX2_BLOCKS, VNNI_BLOCKS
from saffron_kernels.int8_panels import FEWEST, panels
from saffron_kernels.int8_product import Blocks, multiply_codes, multiply_tokens
from saffron_kernels.quantize_per_token_cpu import quantize_per_token
from saffron_kernels.w8a8_gemm import w8a8_gemm_reference

Gemm = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, torch.dtype], Tensor]
_EXACT_SUM = 1024
"""As many products of int8 have a sum of at most 2^24, up to which float32 holds every integer."""


def w8a8_gemm(
    codes: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, *, out_dtype: torch.dtype
) -> Tensor:
    """As the op of this name."""
    return exact_way()(codes, scale, weight, weight_scale, bias, out_dtype)


def w8a8_linear(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """As the function of this name."""
    gemm = exact_way()
    if gemm is vnni_gemm:
        return multiply_tokens(_of_vnni, x, weight, weight_scale, bias)
    if gemm is avx2_gemm:
        return multiply_tokens(_of_avx2, x, weight, weight_scale, bias)
    return gemm(*quantize_per_token(x), weight, weight_scale, bias, x.dtype)


@cache
def exact_way() -> Gemm:
    """The first way of this processor that multiplies exactly. One that does not is named in a warning."""
    for gemm in ways(features(), amx=torch.cpu._is_amx_tile_supported()):  # noqa: SLF001 - there is no public way to ask
        if is_exact(gemm):
            return gemm
        warnings.warn(
            f"{gemm.__name__} multiplies int8 inexactly on this processor, so the next best way is used, which may be "
            f"slower",
            stacklevel=2,
        )
    return float32_gemm


def ways(instructions: frozenset[str], *, amx: bool) -> list[Gemm]:
    """The ways of a processor, the fastest first.

    Args:
        instructions: the instruction sets that loops are compiled for.
        amx: whether oneDNN may use tiles of AMX. They multiply several times as much as vectors do.
    """
    tiles = [int_mm_gemm] if amx else []
    vnni = [vnni_gemm] if "avx512vnni" in instructions else []
    avx2 = [avx2_gemm] if instructions >= {"avx2", "f16c"} else []
    return [*tiles, *vnni, *avx2] or [int_mm_gemm]


def is_exact(gemm: Gemm) -> bool:
    """Whether sums are right where they are largest, and in shapes that no vector divides.

    Args:
        gemm: a way to multiply.
    """
    for M, N, K in ((1, 1, 1), (7, 97, 200), (3, 5, 4099), (104, 70, 777)):
        unit_x, unit_w = torch.ones(M, 1), torch.ones(N, 1)
        random = torch.Generator().manual_seed(0)
        x = torch.tensor([-128, 127], dtype=torch.int8)[torch.randint(2, (M, K), generator=random)]
        w = torch.tensor([-128, 127], dtype=torch.int8)[torch.randint(2, (N, K), generator=random)]
        for left, right in ((x, w), (x.clamp(-128, -128), w.clamp(-128, -128)), (x.clamp(127), w.clamp(-128, -128))):
            expected = w8a8_gemm_reference(left, unit_x, right, unit_w, out_dtype=torch.float32)
            if not torch.equal(gemm(left, unit_x, right, unit_w, None, torch.float32), expected):
                return False
    return True


def vnni_gemm(  # noqa: PLR0917 - as `Gemm`
    codes: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, out_dtype: torch.dtype
) -> Tensor:
    """By instructions that multiply bytes and sum in int32 (AVX512_VNNI)."""
    return multiply_codes(_of_vnni, codes, scale, weight, weight_scale, bias, out_dtype)


def _of_vnni(M: int, N: int, K: int) -> Blocks:
    return panels(M, N, K) if M >= FEWEST else VNNI_BLOCKS


def avx2_gemm(  # noqa: PLR0917 - as `Gemm`
    codes: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, out_dtype: torch.dtype
) -> Tensor:
    """In int16, for AVX2, whose products of bytes saturate."""
    return multiply_codes(_of_avx2, codes, scale, weight, weight_scale, bias, out_dtype)


def _of_avx2(_M: int, _N: int, _K: int) -> Blocks:
    return AVX2_BLOCKS


def int_mm_gemm(  # noqa: PLR0917 - as `Gemm`
    codes: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, out_dtype: torch.dtype
) -> Tensor:
    """By oneDNN."""
    return _scaled(torch._int_mm(codes, weight.T), scale, weight_scale, bias, out_dtype)  # noqa: SLF001 - its only name


def float32_gemm(  # noqa: PLR0917 - as `Gemm`
    codes: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, out_dtype: torch.dtype
) -> Tensor:
    """By products in float32 of so few columns at a time that their sums are integers that it holds."""
    sums = torch.zeros(len(codes), len(weight), dtype=torch.int32)
    for k in range(0, codes.shape[1], _EXACT_SUM):
        part = slice(k, k + _EXACT_SUM)
        sums += (codes[:, part].float() @ weight[:, part].float().T).to(torch.int32)
    return _scaled(sums, scale, weight_scale, bias, out_dtype)


def _scaled(sums: Tensor, scale: Tensor, weight_scale: Tensor, bias: Tensor | None, out_dtype: torch.dtype) -> Tensor:
    y = sums.float().mul_(scale).mul_(weight_scale.T)
    return (y if bias is None else y.add_(bias.float())).to(out_dtype)
