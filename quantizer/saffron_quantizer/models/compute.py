"""The type that a model is computed in, which depends on what the processor multiplies fast."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

CPU = torch.device("cpu")


def has_fast_bfloat16() -> bool:
    """Whether this processor has instructions that multiply bfloat16 (AVX512-BF16 or AMX), and torch may use them."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # noqa: SLF001 - there is no public way to ask


def compute_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """The type for the forward pass of a model that is stored in a type, on a device.

    On a card it is that type. On a processor it is bfloat16 only where the model is stored in it, so that no bit of a
    weight is lost, and where there are instructions for it: without them it is six times slower than float32.
    """
    if device.type != "cpu":
        return stored
    return torch.bfloat16 if stored == torch.bfloat16 and has_fast_bfloat16() else torch.float32


def kept_dtype(stored: torch.dtype, computed: torch.dtype) -> torch.dtype:
    """The type in which a model's activations are kept from step to step.

    That of a model that is stored in bfloat16 is bfloat16 whatever it is computed in: engines compute such a model in
    it, and round what each part gives. So no more is lost than where it is served, and half of the room does.
    """
    return stored if stored == torch.bfloat16 else computed


def name_of(device: torch.device) -> str:
    """The kind of a device, and of a card its model, on which it depends how sums are parted."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextmanager
def products_in_bfloat16(dtype: torch.dtype) -> Iterator[None]:
    """Let float32 products of numbers that were of a type run on the processor's bfloat16 units, if that loses nothing.

    Products of two bfloat16 numbers are exact in float32, and so is what is added up.
    """
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined] # it is made at run time
    before = settings.fp32_precision
    settings.fp32_precision = "bf16" if dtype == torch.bfloat16 and has_fast_bfloat16() else before
    try:
        yield
    finally:
        settings.fp32_precision = before
