"""A representative problem of an op: what is compiled ahead of time, predicted and measured.

Each `<stem>_triton.py` lists its own as `PROBLEMS`, a tuple of `Problem`, with shapes of models that are served.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from saffron_kernels.launch import Launch

Unit = Literal["fp32", "fp16_tensor", "int8_tensor", "fp8_tensor"]
"""What does the arithmetic: the CUDA cores in float32, or the tensor cores with operands of that type."""


@dataclass(frozen=True)
class Problem:
    """One op at one size.

    Attributes:
        name: the op and its size, "gptq_block 4096x128" for one.
        launch: makes the launch from tensors of the meta device for a card of that compute capability, (8, 0) for one;
            raises NotImplementedError where such a card lacks what the kernel needs.
        bytes: bytes that memory must move at the least: each input read once, each output written once.
        flops: operations that must be done at the least, a product and its sum counted as two.
        unit: what does them.
    """

    name: str
    launch: Callable[[tuple[int, int]], Launch]
    bytes: int
    flops: int
    unit: Unit

    @property
    def op(self) -> str:
        """The name's first word."""
        return self.name.split()[0]
