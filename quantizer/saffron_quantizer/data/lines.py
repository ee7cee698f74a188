"""The lines of a data set, read strictly: one JSON object a line, each with one of text, prompt, messages or tokens."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saffron_api.failures import Failure, FailureReason, StageError, subject_of

MIN_SCORE_START = 1
"""The first token that can be scored: it is predicted from the one before it."""


@dataclass(frozen=True)
class Text:
    """A text or a prompt, as it is."""

    text: str


@dataclass(frozen=True)
class Turn:
    """One message of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Chat:
    """The messages of a chat, in order."""

    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Tokens:
    """What `sample` wrote: token ids and the half-open range of those that are scored."""

    tokens: tuple[int, ...]
    score: tuple[int, int]


@dataclass(frozen=True)
class Line:
    """One line of a data set.

    Attributes:
        number: counted from 1, for messages.
        content: what the line holds.
        conversation: what the line belongs to, or None if it stands alone.
    """

    number: int
    content: Text | Chat | Tokens
    conversation: str | None


_CONTENT_FIELDS = ("text", "prompt", "messages", "tokens")
_FIELDS = frozenset({*_CONTENT_FIELDS, "conversation", "score"})


def read_lines(path: Path, *, need: int = 1) -> list[Line]:
    """The lines of a data set; lines of white space only are passed over.

    Args:
        path: the data set.
        need: conversations that are asked of it, for the message about one without any.

    Raises:
        StageError: `DATASET_MISSING`; `DATASET_EMPTY`; `DATASET_MALFORMED` with the number of the first bad line and
            what is wrong with it, never with its content.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise StageError(Failure(reason=FailureReason.DATASET_MISSING, subject=subject_of(path))) from error
    lines = list(_parse_all(data, path))
    if not lines:
        raise StageError(Failure(reason=FailureReason.DATASET_EMPTY, subject=subject_of(path), need=need))
    return lines


def _parse_all(data: bytes, path: Path) -> Iterator[Line]:
    # Only "\n" ends a line: JSON strings may hold other separators, as U+2028.
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            yield _parse(raw, number)
        except _MalformedError as error:
            raise malformed(path, number, str(error)) from error


def malformed(path: Path, number: int, detail: str) -> StageError:
    """The error for a line that can't be used; `detail` names fields, never content."""
    failure = Failure(reason=FailureReason.DATASET_MALFORMED, subject=subject_of(path), line=number)
    return StageError(failure, detail=detail)


class _MalformedError(ValueError):
    """What is wrong with a line."""


def _parse(raw: bytes, number: int) -> Line:
    try:
        # Of bytes, Python would read halves of characters, too, which no text has.
        value = json.loads(raw.decode())
    except (UnicodeDecodeError, RecursionError) as error:
        raise _MalformedError(
            "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "nested too deep"
        ) from error
    except json.JSONDecodeError as error:
        raise _MalformedError(f"not JSON at column {error.colno}") from error
    except ValueError as error:
        # Python reads no number of more than some thousand digits.
        raise _MalformedError("has a number of too many digits") from error
    if not isinstance(value, dict):
        raise _MalformedError("not a JSON object")
    present = [field for field in _CONTENT_FIELDS if field in value]
    if len(present) != 1:
        raise _MalformedError(f"has {' and '.join(present)}" if present else "has none of them")
    if value.keys() - _FIELDS:
        raise _MalformedError("has other fields than these and conversation")
    if ("score" in value) != ("tokens" in value):
        raise _MalformedError("tokens and score go together")
    conversation = value.get("conversation")
    if conversation is not None and not (isinstance(conversation, str | int) and not isinstance(conversation, bool)):
        raise _MalformedError("conversation is neither a string nor a whole number")
    _require_whole_characters("conversation", str(conversation))
    return Line(
        number=number,
        content=_content(present[0], value),
        conversation=None if conversation is None else str(conversation),
    )


def _content(field: str, value: dict[str, Any]) -> Text | Chat | Tokens:
    if field == "messages":
        return _chat(value["messages"])
    if field == "tokens":
        return _tokens(value["tokens"], value["score"])
    if not isinstance(value[field], str):
        raise _MalformedError(f"{field} is not a string")
    _require_whole_characters(field, value[field])
    return Text(value[field])


def _require_whole_characters(what: str, text: str) -> None:
    """Refuse one of two surrogates alone: JSON can write it, by its number, but it is no text and has no tokens."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _MalformedError(f"{what} has half of a character") from error


def _chat(messages: object) -> Chat:
    if not isinstance(messages, list) or not messages:
        raise _MalformedError("messages is not a list with at least one message")
    for message in messages:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise _MalformedError("a message is not an object with role and content")
        if not isinstance(message["role"], str) or not isinstance(message["content"], str):
            raise _MalformedError("role or content of a message is not a string")
        if message.keys() - {"role", "content"}:
            raise _MalformedError("a message has other fields than role and content")
        _require_whole_characters("role or content of a message", message["role"] + message["content"])
    return Chat(tuple(Turn(message["role"], message["content"]) for message in messages))


def _tokens(tokens: object, score: object) -> Tokens:
    ids, bounds = _whole_numbers(tokens), _whole_numbers(score)
    if ids is None or bounds is None:
        raise _MalformedError("tokens or score is not a list of whole numbers from 0")
    if len(bounds) != 2 or not MIN_SCORE_START <= bounds[0] < bounds[1] <= len(ids):  # noqa: PLR2004 a range has two ends
        raise _MalformedError("score is not a range inside tokens that starts after the first")
    return Tokens(ids, (bounds[0], bounds[1]))


def _whole_numbers(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        return None
    return tuple(value)
