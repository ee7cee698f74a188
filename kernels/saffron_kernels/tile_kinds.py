"""The kinds of tiles that multiply floats on the CPU: what each needs of the processor, and which numbers it is for.

`outer_tile` and `int4_tile` have a tile of each kind.
"""

from dataclasses import dataclass

import torch

from saffron_kernels.compiled import features
from saffron_kernels.operands import FLOATING


@dataclass(frozen=True)
class TileKind:
    """A row of the table.

    Attributes:
        needs: what the processor must have, in LLVM's spelling; to compile VDPBF16PS for another ends the process.
        dtypes: of the tokens that are multiplied. All but the first kind multiply them in float32.
    """

    needs: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]


AVX512_BF16, AVX512, AVX2 = range(3)
"""Numbers of the kinds, which loops are compiled with."""
TILE_KINDS = (
    TileKind(("avx512bf16",), (torch.bfloat16,)),
    TileKind(("avx512f",), FLOATING),
    TileKind(("avx2", "fma", "f16c"), FLOATING),
)
"""By number, the fastest first."""


def has_tiles(number: int) -> bool:
    """Whether loops are compiled for a processor that has the kind's instructions."""
    return features().issuperset(TILE_KINDS[number].needs)


def tile_kind(dtype: torch.dtype) -> int | None:
    """The number of the fastest kind for tokens of a type on this processor; None where there is none."""
    numbers = (number for number, kind in enumerate(TILE_KINDS) if dtype in kind.dtypes)
    return next(filter(has_tiles, numbers), None)
