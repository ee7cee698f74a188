"""Failures: each has a code and a sentence that renders, and none has room for anybody's text."""

import re
import string
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from saffron_api.failures import FAILURES, ExitCode, Failure, FailureReason, StageError, subject_of

REASONS = list(FailureReason)


def blanks(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name}


def test_every_reason_has_its_code_and_sentence() -> None:
    assert set(FAILURES) == set(REASONS)


def test_only_what_a_second_try_may_mend_is_tried_again() -> None:
    retried = {reason for reason in REASONS if FAILURES[reason].code is ExitCode.BUG_OR_RETRYABLE}
    assert retried == {FailureReason.INTERNAL, FailureReason.INPUT_OUTPUT, FailureReason.ENGINE_FAILED}
    assert {FAILURES[reason].code for reason in REASONS if reason not in retried} <= set(range(10, 17))


@pytest.mark.parametrize("reason", REASONS)
def test_a_sentence_shows_everything_it_is_given(reason: FailureReason) -> None:
    entry = FAILURES[reason]
    failure = Failure(reason=reason, subject="model.safetensors", have=31, need=47, line=53)
    shown = {"subject": "model.safetensors", "have": "31", "need": "47", "line": "53"}
    assert [shown[name] for name in blanks(entry.sentence) if shown[name] not in failure.message] == []
    assert (failure.exit_code, str(StageError(failure))) == (entry.code, failure.message)


@pytest.mark.parametrize("reason", REASONS)
def test_a_sentence_reads_when_nothing_more_is_known(reason: FailureReason) -> None:
    message = Failure(reason=reason).message
    assert re.search(r"None|[{}]", message) is None
    assert message.endswith(".")


KNOWN = {
    "a folder that is no model": (
        Failure(reason=FailureReason.MODEL_MISSING, subject="/mnt/model/a"),
        "There is no model at /mnt/model/a; check the claim and the path (config.json must be there).",
    ),
    "too little data": (
        Failure(reason=FailureReason.DATASET_EMPTY, subject="/mnt/data/p.jsonl", need=640),
        "The data set /mnt/data/p.jsonl has no line; it needs at least 640 conversations.",
    ),
}


@pytest.mark.parametrize(("failure", "message"), KNOWN.values(), ids=KNOWN.keys())
def test_the_whole_sentence(failure: Failure, message: str) -> None:
    assert failure.message == message


SUBJECTS = {
    "a tensor": "model.layers.0.self_attn.q_proj.weight",
    "a path": "/mnt/model/gemma-3-270m/model-00001-of-00002.safetensors",
    "an exception's class": "RuntimeError",
    "an option": "--group-size=48",
    "nothing": "",
}


@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS.keys())
def test_a_name_is_a_subject(subject: str) -> None:
    assert Failure(reason=FailureReason.INTERNAL, subject=subject).subject == subject


FREE_TEXT = {
    "a sentence": "Dear doctor, my test came back positive",
    "two words": "hello world",
    "a quotation": '"hello"',
    "lines": "hello\nworld",
    "a line break at the end": "hello\n",
    "other scripts": "Привет",
    "markup": "<script>",
    "more than a name": "x" * 301,
}


@pytest.mark.parametrize("subject", FREE_TEXT.values(), ids=FREE_TEXT.keys())
def test_free_text_is_no_subject(subject: str) -> None:
    with pytest.raises(ValidationError):
        Failure(reason=FailureReason.INTERNAL, subject=subject)


PATHS = {
    "a name stays": ("model.safetensors", "model.safetensors"),
    "a path stays": (PurePosixPath("/mnt/model/a"), "/mnt/model/a"),
    "a space is replaced": (Path("/home/me/my models"), "/home/me/my_models"),
    "a long path keeps its end": ("a" * 300 + "/config.json", "a" * 288 + "/config.json"),
}


@pytest.mark.parametrize(("name", "subject"), PATHS.values(), ids=PATHS.keys())
def test_any_path_has_a_subject(name: str | Path, subject: str) -> None:
    assert subject_of(name) == subject


@given(st.text(max_size=400))
def test_a_subject_can_be_made_of_any_name(name: str) -> None:
    assert Failure(reason=FailureReason.INPUT_OUTPUT, subject=subject_of(name)).subject is not None
