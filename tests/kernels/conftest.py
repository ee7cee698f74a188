"""Kernels run in Triton's interpreter here, on CPU tensors: `triton.jit` decides that when it decorates a function.

Triton decorates its own functions while it is imported, hence the check that nothing imported it before.
"""

import os
import sys

import pytest

if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
    raise RuntimeError("triton was imported before TRITON_INTERPRET=1 was set, so its interpreter would not work")
os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def best_tiles(monkeypatch):
    """Have floats multiplied as on a processor whose best tiles are of this kind; by none for None."""
    from saffron_kernels import tile_kinds  # noqa: PLC0415 - after the check above

    def pretend(best):
        if best is not None and not tile_kinds.has_tiles(best):
            pytest.skip("this processor lacks the instructions")
        monkeypatch.setattr(tile_kinds, "has_tiles", lambda number: best is not None and number >= best)

    return pretend
