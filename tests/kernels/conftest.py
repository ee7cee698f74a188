"""Kernels run in Triton's interpreter here, on CPU tensors: `triton.jit` decides that when it decorates a function.

Triton decorates its own functions while it is imported, hence the check that nothing imported it before.
"""

import os
import sys

if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
    raise RuntimeError("triton was imported before TRITON_INTERPRET=1 was set, so its interpreter would not work")
os.environ["TRITON_INTERPRET"] = "1"
