"""What cards can do, by NVIDIA's documents: limits of a multiprocessor, and peaks of a whole card.

Limits: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability". Peaks: the data sheets of the
A100 80GB SXM and the H100 SXM, without sparsity, at boost clocks that a busy card does not hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from saffron_kernels.problem import Unit

Capability = tuple[int, int]


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of one multiprocessor of a compute capability.

    Attributes:
        warps: that are resident at once.
        blocks: that are resident at once. A Triton program is a block.
        shared: bytes of shared memory.
        shared_per_block: bytes that one block may have of it.
    """

    warps: int
    blocks: int
    shared: int
    shared_per_block: int


@dataclass(frozen=True)
class Card:
    """A card's peaks.

    Attributes:
        name: as people call it.
        capability: its compute capability.
        multiprocessors: how many it has.
        bandwidth: bytes a second to and from its memory.
        peaks: operations a second by what does them, a product and its sum counted as two.
        driver_names: what the driver's name of such a card holds: "NVIDIA H100 80GB HBM3" is an SXM, "NVIDIA H100 PCIe"
            another card.
    """

    name: str
    capability: Capability
    multiprocessors: int
    bandwidth: float
    peaks: Mapping[Unit, float]
    driver_names: tuple[str, ...]

    def matches(self, name: str) -> bool:
        """Whether it is a card of this driver's name."""
        return all(part in name for part in self.driver_names)


MULTIPROCESSORS: Mapping[Capability, Multiprocessor] = {
    (8, 0): Multiprocessor(warps=64, blocks=32, shared=164 * 1024, shared_per_block=163 * 1024),
    (8, 9): Multiprocessor(warps=48, blocks=24, shared=100 * 1024, shared_per_block=99 * 1024),
    (9, 0): Multiprocessor(warps=64, blocks=32, shared=228 * 1024, shared_per_block=227 * 1024),
}

A100 = Card(
    "A100 80GB SXM",
    (8, 0),
    108,
    2.039e12,
    {"fp32": 19.5e12, "fp16_tensor": 312e12, "int8_tensor": 624e12},
    driver_names=("A100-SXM4", "80GB"),
)
H100 = Card(
    "H100 SXM",
    (9, 0),
    132,
    3.35e12,
    {"fp32": 66.9e12, "fp16_tensor": 989.4e12, "int8_tensor": 1978.9e12, "fp8_tensor": 1978.9e12},
    driver_names=("H100 80GB HBM3",),
)
CARDS = (A100, H100)


def architecture(capability: Capability) -> str:
    """The compiler's name of a compute capability, sm_80 for (8, 0)."""
    return f"sm_{capability[0]}{capability[1]}"
