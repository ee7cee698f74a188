"""The table of engines: what each runs on which processor."""

import pytest

from saffron_api.candidate import Scheme
from saffron_operator.engines import GPU, TABLE, Support, support
from saffron_operator.observed import Engine

W4A16_ON_AMX = "VLLM_CPU_INT4_W4A8=0"

ROWS = [
    (Engine.VLLM, Scheme.W4A16, "AVX512", Support.OK),
    (Engine.VLLM, Scheme.W4A16, "AVX512_VNNI", Support.OK),
    (Engine.VLLM, Scheme.W4A16, "AVX2", Support.UNSUPPORTED),
    (Engine.VLLM, Scheme.W4A16, "DEFAULT", Support.UNSUPPORTED),
    (Engine.VLLM, Scheme.W4A16, GPU, Support.OK),
    (Engine.VLLM, Scheme.W4A16, "AMX", Support.INEXACT),
    (Engine.VLLM, Scheme.W8A8, "AVX512_VNNI", Support.OK),
    (Engine.VLLM, Scheme.W8A8, "AVX512", Support.INEXACT),
    (Engine.VLLM, Scheme.W8A8, "AMX", Support.OK),
    (Engine.VLLM, Scheme.W8A8, "AVX2", Support.INEXACT),
    (Engine.VLLM, Scheme.W8A8, "SVE256", Support.UNSUPPORTED),
    (Engine.VLLM, Scheme.W8A8, GPU, Support.OK),
    (Engine.TRANSFORMERS, Scheme.W4A16, "AVX2", Support.OK),
    (Engine.TRANSFORMERS, Scheme.W8A8, "AVX2", Support.OK),
    (Engine.TRANSFORMERS, Scheme.W4A16, "AMX", Support.OK),
]


@pytest.mark.parametrize(("engine", "scheme", "isa", "expected"), ROWS)
def test_the_first_line_that_fits_counts(engine: Engine, scheme: Scheme, isa: str, expected: Support):
    assert support(engine, scheme, isa, frozenset()).support is expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({W4A16_ON_AMX}, Support.OK), ({"VLLM_CPU_INT4_W4A8=1"}, Support.INEXACT), ({"OTHER=0"}, Support.INEXACT)],
)
def test_a_line_that_needs_a_setting_fits_only_where_the_server_has_it(environment: set[str], expected: Support):
    assert support(Engine.VLLM, Scheme.W4A16, "AMX", frozenset(environment)).support is expected


def test_every_engine_has_a_line_for_every_scheme_and_any_processor():
    assert {(row.engine, row.scheme) for row in TABLE if row.isa == "*"} == {
        (engine, scheme) for engine in Engine for scheme in Scheme
    }
