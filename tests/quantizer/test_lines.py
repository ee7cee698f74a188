"""A data set is read strictly: every line that can't be used is refused with its number and what is wrong with it."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.data.lines import Chat, Line, Text, Tokens, Turn, read_lines

READ = {
    "text": (b'{"text": "a"}', Line(1, Text("a"), None)),
    "prompt": (b'{"prompt": "a"}', Line(1, Text("a"), None)),
    "messages": (
        b'{"messages": [{"role": "user", "content": "a"}]}',
        Line(1, Chat((Turn("user", "a"),)), None),
    ),
    "tokens": (b'{"tokens": [1, 2], "score": [1, 2]}', Line(1, Tokens((1, 2), (1, 2)), None)),
    "a conversation": (b'{"text": "a", "conversation": "c"}', Line(1, Text("a"), "c")),
    "a conversation with a number": (b'{"text": "a", "conversation": 7}', Line(1, Text("a"), "7")),
    "a byte order mark": (b'\xef\xbb\xbf{"text": "a"}', Line(1, Text("a"), None)),
    "a carriage return": (b'{"text": "a"}\r\n', Line(1, Text("a"), None)),
    "a line separator inside a string": ('{"text": "a\u2028b"}'.encode(), Line(1, Text("a\u2028b"), None)),
    "both halves of a character": (rb'{"text": "\ud83d\ude00"}', Line(1, Text("\U0001f600"), None)),
    "empty lines before it": (b'\n \n{"text": "a"}\n\n', Line(3, Text("a"), None)),
}


@pytest.mark.parametrize(("data", "expected"), READ.values(), ids=READ.keys())
def test_a_line_with(tmp_path, data, expected):
    path = tmp_path / "data.jsonl"
    path.write_bytes(data)
    assert read_lines(path) == [expected]


REFUSED = {
    b"hello": "not JSON at column 1",
    b"[1]": "not a JSON object",
    b"{}": "has none of them",
    b'{"conversation": "c"}': "has none of them",
    b'{"text": "a", "prompt": "b"}': "has text and prompt",
    b'{"text": "a", "extra": 1}': "has other fields than these and conversation",
    b'{"text": 1}': "text is not a string",
    b'{"prompt": null}': "prompt is not a string",
    b'{"text": "a", "conversation": [1]}': "conversation is neither a string nor a whole number",
    b'{"text": "a", "conversation": true}': "conversation is neither a string nor a whole number",
    b'{"messages": []}': "messages is not a list with at least one message",
    b'{"messages": "a"}': "messages is not a list with at least one message",
    b'{"messages": [{"role": "user"}]}': "a message is not an object with role and content",
    b'{"messages": [{"role": "user", "content": [1]}]}': "role or content of a message is not a string",
    b'{"messages": [{"role": "user", "content": "a", "x": 1}]}': "a message has other fields than role and content",
    b'{"tokens": [1, 2]}': "tokens and score go together",
    b'{"text": "a", "score": [1, 2]}': "tokens and score go together",
    b'{"tokens": ["a"], "score": [1, 2]}': "tokens or score is not a list of whole numbers from 0",
    b'{"tokens": [1, -2], "score": [1, 2]}': "tokens or score is not a list of whole numbers from 0",
    b'{"tokens": [1, 2], "score": [0, 2]}': "score is not a range inside tokens that starts after the first",
    b'{"tokens": [1, 2], "score": [1, 3]}': "score is not a range inside tokens that starts after the first",
    b'{"tokens": [1, 2], "score": [1, 1]}': "score is not a range inside tokens that starts after the first",
    b'{"text": "\xff"}': "not UTF-8 text",
    b"[" * 100_000: "nested too deep",
    b'{"text": "a", "conversation": ' + b"1" * 5_000 + b"}": "has a number of too many digits",
    rb'{"text": "a \ud83d b"}': "text has half of a character",
    b'{"prompt": "a \xed\xa0\xbd b"}': "not UTF-8 text",
    rb'{"text": "a", "conversation": "\udc00"}': "conversation has half of a character",
    rb'{"messages": [{"role": "user", "content": "\ud83d"}]}': "role or content of a message has half of a character",
    rb'{"messages": [{"role": "\ud83d", "content": "a"}]}': "role or content of a message has half of a character",
}


@pytest.mark.parametrize(("line", "detail"), REFUSED.items(), ids=[line[:60].decode("latin1") for line in REFUSED])
def test_a_bad_line_is_refused_with_its_number(tmp_path, line, detail):
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(StageError) as caught:
        read_lines(path)
    expected = Failure(reason=FailureReason.DATASET_MALFORMED, subject=subject_of(path), line=2)
    assert (caught.value.failure, caught.value.detail) == (expected, detail)


def test_a_missing_data_set_is_named(tmp_path):
    with pytest.raises(StageError) as caught:
        read_lines(tmp_path / "no.jsonl")
    assert caught.value.failure.reason is FailureReason.DATASET_MISSING


@pytest.mark.parametrize("data", [b"", b"\n \n"])
def test_a_data_set_without_a_line_is_empty(tmp_path, data):
    (tmp_path / "d.jsonl").write_bytes(data)
    with pytest.raises(StageError) as caught:
        read_lines(tmp_path / "d.jsonl")
    assert caught.value.failure.reason is FailureReason.DATASET_EMPTY


@settings(deadline=None)
@given(data=st.binary(min_size=1, max_size=60))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "d.jsonl"
    path.write_bytes(data)
    with suppress(StageError):
        read_lines(path)
