"""The table of engines: what each runs on which processor."""

import pytest

from saffron_api.candidate import CandidateSpec
from saffron_operator.engines import FP8_CACHE, GPU, TABLE, WHATS, Support, asked_of_engine, support
from saffron_operator.observed import Engine

W4A16_ON_AMX = "VLLM_CPU_INT4_W4A8=0"

W4A16 = CandidateSpec(method="GPTQ", scheme="W4A16")
AUTOAWQ = CandidateSpec(method="AWQ", scheme="W4A16", format="AutoAWQ", symmetric=False)
GPTQ_V1 = CandidateSpec(method="GPTQ", scheme="W4A16", format="GPTQ")
W8A16 = CandidateSpec(method="RTN", scheme="W8A16")
W8A8 = CandidateSpec(method="RTN", scheme="W8A8")
FP8 = CandidateSpec(method="RTN", scheme="FP8")
FP8_STATIC = CandidateSpec(method="RTN", scheme="FP8Static")
W4A16_CACHED = CandidateSpec(method="RTN", scheme="W4A16", kv_cache="FP8")
W8A16_CACHED = CandidateSpec(method="RTN", scheme="W8A16", kv_cache="FP8")

ROWS = [
    (Engine.VLLM, W4A16, "AVX512", Support.OK),
    (Engine.VLLM, W4A16, "AVX512_VNNI", Support.OK),
    (Engine.VLLM, W4A16, "AVX2", Support.UNSUPPORTED),
    (Engine.VLLM, W4A16, "DEFAULT", Support.UNSUPPORTED),
    (Engine.VLLM, W4A16, GPU, Support.OK),
    (Engine.VLLM, W4A16, "AMX", Support.INEXACT),
    (Engine.VLLM, AUTOAWQ, "AVX512_VNNI", Support.OK),
    (Engine.VLLM, AUTOAWQ, "AVX2", Support.UNSUPPORTED),
    (Engine.VLLM, AUTOAWQ, "AMX", Support.INEXACT),
    (Engine.VLLM, GPTQ_V1, "AVX512", Support.OK),
    (Engine.VLLM, GPTQ_V1, "AVX2", Support.UNSUPPORTED),
    (Engine.VLLM, GPTQ_V1, GPU, Support.OK),
    (Engine.VLLM, W8A16, "AVX512_VNNI", Support.UNSUPPORTED),
    (Engine.VLLM, W8A16, "AMX", Support.UNSUPPORTED),
    (Engine.VLLM, W8A16, GPU, Support.OK),
    (Engine.VLLM, W8A8, "AVX512_VNNI", Support.OK),
    (Engine.VLLM, W8A8, "AVX512", Support.INEXACT),
    (Engine.VLLM, W8A8, "AMX", Support.OK),
    (Engine.VLLM, W8A8, "AVX2", Support.INEXACT),
    (Engine.VLLM, W8A8, "SVE256", Support.UNSUPPORTED),
    (Engine.VLLM, W8A8, GPU, Support.OK),
    (Engine.VLLM, FP8, "AVX512_VNNI", Support.OK),
    (Engine.VLLM, FP8, "AVX2", Support.UNSUPPORTED),
    (Engine.VLLM, FP8_STATIC, "AVX512_VNNI", Support.UNSUPPORTED),
    (Engine.VLLM, FP8_STATIC, GPU, Support.OK),
    (Engine.VLLM, W4A16_CACHED, "AVX512", Support.OK),
    (Engine.VLLM, W4A16_CACHED, "AVX2", Support.UNSUPPORTED),
    (Engine.VLLM, W4A16_CACHED, GPU, Support.INEXACT),
    (Engine.VLLM, W8A16_CACHED, "AVX512", Support.UNSUPPORTED),
    (Engine.TRANSFORMERS, W4A16, "AVX2", Support.OK),
    (Engine.TRANSFORMERS, W4A16, "AMX", Support.OK),
    (Engine.TRANSFORMERS, W8A16, "AVX2", Support.OK),
    (Engine.TRANSFORMERS, W8A8, "AVX2", Support.OK),
    (Engine.TRANSFORMERS, FP8, "AVX2", Support.OK),
    (Engine.TRANSFORMERS, FP8_STATIC, GPU, Support.OK),
    (Engine.TRANSFORMERS, W4A16_CACHED, "AVX2", Support.OK),
    (Engine.TRANSFORMERS, AUTOAWQ, "AVX512", Support.UNSUPPORTED),
    (Engine.TRANSFORMERS, GPTQ_V1, GPU, Support.UNSUPPORTED),
]


@pytest.mark.parametrize(("engine", "candidate", "isa", "expected"), ROWS)
def test_the_first_line_that_fits_counts(engine: Engine, candidate: CandidateSpec, isa: str, expected: Support):
    assert support(engine, candidate, isa, frozenset()).support is expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({W4A16_ON_AMX}, Support.OK), ({"VLLM_CPU_INT4_W4A8=1"}, Support.INEXACT), ({"OTHER=0"}, Support.INEXACT)],
)
def test_a_line_that_needs_a_setting_fits_only_where_the_server_has_it(environment: set[str], expected: Support):
    assert support(Engine.VLLM, W4A16, "AMX", frozenset(environment)).support is expected


def test_what_is_asked_of_an_engine_is_in_the_candidates_own_words():
    candidates = (W4A16, AUTOAWQ, GPTQ_V1, W8A16, W8A8, FP8, FP8_STATIC)
    assert [asked_of_engine(candidate) for candidate in candidates] == [
        ("W4A16",),
        ("W4A16 in AutoAWQ",),
        ("W4A16 in GPTQ",),
        ("W8A16",),
        ("W8A8",),
        ("FP8",),
        ("FP8Static",),
    ]
    assert asked_of_engine(W4A16_CACHED) == ("W4A16", FP8_CACHE)


def test_the_line_that_is_told_is_the_one_that_keeps_a_candidate_from_being_served():
    assert support(Engine.VLLM, W4A16_CACHED, "AVX512", frozenset()).what == "W4A16"
    assert support(Engine.VLLM, W4A16_CACHED, GPU, frozenset()).what == FP8_CACHE
    assert support(Engine.VLLM, W8A16_CACHED, "AVX2", frozenset()).what == "W8A16"


def test_every_engine_has_a_line_for_everything_and_any_processor():
    assert {(row.engine, row.what) for row in TABLE if row.isa == "*"} == {
        (engine, what) for engine in Engine for what in WHATS
    }
