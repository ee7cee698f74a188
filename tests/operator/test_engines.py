"""The table of engines: what each runs on which processor."""

import pytest

from saffron_api.candidate import Scheme
from saffron_operator.engines import GPU, TABLE, Support, support
from saffron_operator.observed import Engine

ROWS = [
    (Engine.VLLM, Scheme.W4A16, "AVX512", Support.OK),
    (Engine.VLLM, Scheme.W4A16, "AVX512_VNNI", Support.OK),
    (Engine.VLLM, Scheme.W4A16, "AVX2", Support.UNSUPPORTED),
    (Engine.VLLM, Scheme.W4A16, "DEFAULT", Support.UNSUPPORTED),
    (Engine.VLLM, Scheme.W4A16, GPU, Support.OK),
    (Engine.VLLM, Scheme.W8A8, "AVX512", Support.OK),
    (Engine.VLLM, Scheme.W8A8, "AVX2", Support.INEXACT),
    (Engine.VLLM, Scheme.W8A8, "SVE256", Support.UNSUPPORTED),
    (Engine.VLLM, Scheme.W8A8, GPU, Support.OK),
    (Engine.TRANSFORMERS, Scheme.W4A16, "AVX2", Support.OK),
    (Engine.TRANSFORMERS, Scheme.W8A8, "AVX2", Support.OK),
]


@pytest.mark.parametrize(("engine", "scheme", "isa", "expected"), ROWS)
def test_the_first_line_that_fits_counts(engine: Engine, scheme: Scheme, isa: str, expected: Support):
    assert support(engine, scheme, isa).support is expected


def test_every_engine_has_a_line_for_every_scheme_and_any_processor():
    assert {(row.engine, row.scheme) for row in TABLE if row.isa == "*"} == {
        (engine, scheme) for engine in Engine for scheme in Scheme
    }
