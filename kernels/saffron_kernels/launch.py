"""How a Triton kernel is started: decided once, for a launch on a device and for compilation ahead of time alike.

Each `<stem>_triton.py` has a function that looks at tensors (shapes, strides and types alone, so those of the meta
device do as well) and returns a `Launch`. What runs on a card is thereby what was compiled without one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
        """Start it on the device where its tensors are, or in Triton's interpreter."""
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
