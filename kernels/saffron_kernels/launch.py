"""How a Triton kernel is started: decided once, for a launch on a device and for compilation ahead of time alike.

Each `<stem>_triton.py` has a function that looks at tensors (shapes, strides and types alone, so those of the meta
device do as well) and returns a `Launch`. What runs on a card is thereby what was compiled without one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    Attributes:
        kernel: the function under `triton.jit`.
        grid: programs in each of up to three dimensions.
        arguments: by parameter name: tensors, numbers, None, and what the kernel has as `tl.constexpr`.
        num_warps: warps of a program.
        num_stages: loads that a pipelined loop has under way.
        fp_fusion: whether a product and a sum may become one fused operation, which rounds once instead of twice.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    fp_fusion: bool = True

    def run(self) -> None:
        """Start it on the device where its tensors are, or in Triton's interpreter.

        Triton itself starts a kernel on the current device, wherever its tensors are.
        """
        tensor = next(value for value in self.arguments.values() if isinstance(value, Tensor))
        with torch.cuda.device(tensor.get_device()):  # -1 if it is on no card, which changes nothing
            self.kernel[self.grid](**self._keywords())

    def compile(self) -> Any:  # noqa: ANN401 - Triton's CompiledKernel
        """Compile it for the device of Triton's active driver, specialised as `run` has it, and start nothing."""
        return self.kernel.warmup(grid=self.grid, **self._keywords())

    def _keywords(self) -> dict[str, Any]:
        return {
            **self.arguments,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "enable_fp_fusion": self.fp_fusion,
        }


def with_tensors_on(device: torch.device, launch: Launch) -> Launch:
    """The same launch with tensors of a device in the place of those of the meta device.

    Floating numbers are random, int8 is random in -8..7. All else is 0: it may say where to read and write.
    """
    arguments = {
        name: _filled(value, device) if isinstance(value, Tensor) and value.is_meta else value
        for name, value in launch.arguments.items()
    }
    return replace(launch, arguments=arguments)


def _filled(meta: Tensor, device: torch.device) -> Tensor:
    tensor = torch.empty_strided(meta.shape, meta.stride(), dtype=meta.dtype, device=device)
    if meta.dtype.is_floating_point:
        return tensor.copy_(torch.randn(meta.shape, device=device))
    return tensor.random_(-8, 8) if meta.dtype == torch.int8 else tensor.zero_()
