"""Kernels run in Triton's interpreter here, on CPU tensors: `triton.jit` decides that when it decorates a function.

Triton decorates its own functions while it is imported, hence the check that nothing imported it before.
"""

import os
import sys
import time
from collections import defaultdict

import pytest

if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
    raise RuntimeError("triton was imported before TRITON_INTERPRET=1 was set, so its interpreter would not work")
os.environ["TRITON_INTERPRET"] = "1"
_launches = defaultdict(list)
"""Seconds of each launch in the interpreter, by kernel."""


@pytest.fixture(scope="session", autouse=True)
def _timed_interpreter():
    from triton.runtime.interpreter import GridExecutor  # noqa: PLC0415 - after the check above

    launch = GridExecutor.__call__

    def timed(executor, *args, **kwargs):
        begun = time.perf_counter()
        try:
            return launch(executor, *args, **kwargs)
        finally:
            module = executor.fn.__module__.rpartition(".")[2]
            _launches[f"{module}.{executor.fn.__name__}"].append(time.perf_counter() - begun)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GridExecutor, "__call__", timed)
        yield


def pytest_terminal_summary(terminalreporter):
    """Tell how often each kernel ran in the interpreter, and how long all of its launches took."""
    if _launches:
        terminalreporter.section("kernels in Triton's interpreter")
        for kernel, seconds in sorted(_launches.items()):
            terminalreporter.write_line(f"{kernel:52} {len(seconds):6} launches {sum(seconds):7.2f} s")


@pytest.fixture
def best_tiles(monkeypatch):
    """Have floats multiplied as on a processor whose best tiles are of this kind; by none for None."""
    from saffron_kernels import tile_kinds  # noqa: PLC0415 - after the check above

    def pretend(best):
        if best is not None and not tile_kinds.has_tiles(best):
            pytest.skip("this processor lacks the instructions")
        monkeypatch.setattr(tile_kinds, "has_tiles", lambda number: best is not None and number >= best)

    return pretend
