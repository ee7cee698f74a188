"""How Inspect names a node's processor: fine enough to tell which engine computes what was measured on it."""

import pytest

from saffron_quantizer.inspect import processor

FLAGS = "fpu avx2 avx512f"
ROWS = [
    ("no more than torch says", "AVX2", FLAGS, "AVX2"),
    ("AVX512 alone", "AVX512", FLAGS, "AVX512"),
    ("with VNNI", "AVX512", f"{FLAGS} avx512_vnni", "AVX512_VNNI"),
    ("with AMX, which has VNNI too", "AVX512", f"{FLAGS} avx512_vnni amx_tile amx_int8", "AMX"),
    ("VNNI of 256 bits, which engines do not use for int8", "AVX2", "fpu avx2 avx_vnni", "AVX2"),
    ("no flags at all, as on ARM", "SVE256", "", "SVE256"),
]


@pytest.mark.parametrize(("capability", "flags", "expected"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_the_processor_is_named(capability: str, flags: str, expected: str):
    cpuinfo = f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\nbugs\t\t: none\n\n" * 2
    assert processor(capability, cpuinfo) == expected


def test_the_flags_are_not_looked_for_elsewhere():
    assert processor("AVX512", "model name\t: amx_tile avx512_vnni\nflags\t\t: avx512f\n") == "AVX512"
