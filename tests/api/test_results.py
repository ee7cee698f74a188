"""What a Job's termination message holds: it survives the way there and back, fits, and has no room for text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from saffron_api.failures import Failure, FailureReason
from saffron_api.results import (
    MAX_MESSAGE_BYTES,
    BaselineResult,
    EvaluateResult,
    FailureResult,
    Figure,
    FigureName,
    InspectResult,
    PredictedNeeds,
    PredictedSize,
    QuantizeResult,
    SampleResult,
    SampleSet,
    Stage,
    StageResult,
    decode,
    encode,
)

HUGE = 10**15
DIGEST = "a" * 64
SET = SampleSet(count=HUGE, tokens=HUGE, digest=DIGEST)
LONG_FLOAT = 1.2345678901234567e-300

LARGEST: dict[str, StageResult] = {
    "inspect": InspectResult(
        model_digest=DIGEST,
        architecture="A" * 64,
        parameters=HUGE,
        bytes=HUGE,
        predicted=[
            PredictedSize(
                name=f"candidate-{n:04}",
                bytes=HUGE,
                gpu_capability=89,
                tensor_parallel=8,
                needs=PredictedNeeds(memory=HUGE, activations=HUGE, disk=HUGE),
            )
            for n in range(16)
        ],
        isa="AVX512".ljust(64, "_"),
    ),
    "sample": SampleResult(calibration=SET, selection=SET, gate=SET),
    "baseline": BaselineResult(perplexity=LONG_FLOAT, scored_tokens=HUGE),
    "quantize": QuantizeResult(
        checkpoint_digest=DIGEST,
        bytes=HUGE,
        modules=HUGE,
        max_damping=LONG_FLOAT,
        dead_columns=HUGE,
        seconds=LONG_FLOAT,
        peak_bytes=HUGE,
    ),
    "evaluate": EvaluateResult(
        checkpoint_digest=DIGEST,
        figures=[Figure(name=name, value=LONG_FLOAT, lower=LONG_FLOAT, upper=LONG_FLOAT) for name in FigureName] * 2,
        units=HUGE,
        scored_tokens=HUGE,
        confidence=LONG_FLOAT,
    ),
    "a failure": FailureResult(
        failed_stage=Stage.QUANTIZE,
        failure=Failure(
            reason=FailureReason.ARCHITECTURE_UNSUPPORTED, subject="x" * 300, have=HUGE, need=HUGE, line=HUGE
        ),
    ),
}
"""The largest message of each stage."""


@pytest.mark.parametrize("result", LARGEST.values(), ids=LARGEST.keys())
def test_the_largest_result_fits_and_comes_back_as_it_was(result: StageResult) -> None:
    text = encode(result)
    assert len(text.encode()) <= MAX_MESSAGE_BYTES
    assert "\n" not in text
    assert decode(text) == result


def test_a_message_that_the_kubelet_would_cut_is_refused() -> None:
    # Digits without end are the only way: every text and list is bounded.
    result = BaselineResult(perplexity=1.0, scored_tokens=10**4200)
    with pytest.raises(ValueError, match=r"a stage's result has 42\d\d bytes, over 4096"):
        encode(result)


finite = st.floats(allow_nan=False, allow_infinity=False)
figures = st.builds(Figure, name=st.sampled_from(FigureName), value=finite, lower=finite, upper=finite)


@given(st.lists(figures, max_size=8), st.integers(0, HUGE), st.floats(0, 1))
def test_figures_come_back_to_the_last_bit(measured: list[Figure], units: int, confidence: float) -> None:
    result = EvaluateResult(
        checkpoint_digest=DIGEST, figures=measured, units=units, scored_tokens=512 * units, confidence=confidence
    )
    assert decode(encode(result)) == result


UNREADABLE = {
    "nothing": "",
    "what a killed process leaves": '{"stage":"baseline","perple',
    "a traceback": "Traceback (most recent call last):\n",
    "a stage that nobody knows": '{"stage":"train"}',
    "a field that nobody knows": '{"stage":"baseline","perplexity":1,"scoredTokens":1,"prompt":"Dear doctor"}',
    "a result that lacks a field": '{"stage":"baseline","perplexity":1}',
    "a figure that is no number": '{"stage":"baseline","perplexity":null,"scoredTokens":1}',
    "a digest that is none": json.dumps(
        json.loads(encode(LARGEST["sample"])) | {"gate": {"count": 1, "tokens": 1, "digest": "x"}}
    ),
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_is_no_result_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        decode(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_json_has_no_word_for_is_refused_where_it_is_made(value: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        Figure(name=FigureName.KL_DIVERGENCE, value=value, lower=0, upper=1)


@pytest.mark.parametrize("text", ["Dear doctor, my test came back", "eight words\nand a line", "Ünïcode", "x" * 65])
def test_text_of_the_models_config_is_no_architecture(text: str) -> None:
    with pytest.raises(ValidationError):
        InspectResult(model_digest=DIGEST, architecture=text, parameters=1, bytes=1, predicted=[], isa="AVX2")
