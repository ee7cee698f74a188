"""What a process that quantizes does not import."""

import subprocess
import sys

SHOWN = """
import sys
import saffron_quantizer.quantize
from saffron_quantizer.models.lean_import import without_compiler
assert not {"torch._dynamo", "sympy", "triton"} & set(sys.modules), "imported at once"
with without_compiler():
    try:
        sys.modules["torch._dynamo"].explain
    except AttributeError as error:
        assert "nothing is compiled" in str(error)
import torch.distributed
import torch._dynamo
assert torch._dynamo.explain is sys.modules["torch._dynamo"].explain, "not the real one afterwards"
assert torch.distributed.is_available()
"""


def test_the_compiler_is_not_imported_and_still_can_be():
    subprocess.run([sys.executable, "-P", "-c", SHOWN], check=True)
