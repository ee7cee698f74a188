"""Token sequences with the range that is scored: made from people's lines, or read back from what `sample` wrote."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.checkpoint.reader import read_config
from saffron_quantizer.data.lines import Chat, Line, Text, Tokens, malformed, read_lines
from saffron_quantizer.data.split import by_conversation, without_repeats
from saffron_quantizer.data.tokenizer import NoChatTemplateError, Tokenizer


@dataclass(frozen=True)
class TokenSequence:
    """One line of a set.

    Attributes:
        tokens: token ids.
        score: half-open range of the tokens that are scored; it is not empty and does not start before 1.
        conversation: hash of what the line belongs to, the unit of resampling.
    """

    tokens: tuple[int, ...]
    score: tuple[int, int]
    conversation: str

    @property
    def scored(self) -> int:
        """How many tokens are scored."""
        return self.score[1] - self.score[0]


def tokenize(
    conversations: Mapping[str, Sequence[Line]], tokenizer: Tokenizer, *, max_tokens: int, path: Path
) -> Iterator[tuple[str, list[TokenSequence]]]:
    """Tokenize conversations as they are asked for; those in which nothing can be scored are left out.

    Args:
        conversations: lines by the hash of their conversation.
        tokenizer: the model's.
        max_tokens: a longer sequence keeps its beginning.
        path: the data set, for messages.

    Raises:
        StageError: `CHAT_TEMPLATE_MISSING` with the line's number.
    """
    for conversation, lines in conversations.items():
        sequences = [_encode(line, tokenizer, conversation, max_tokens, path) for line in lines]
        usable = [sequence for sequence in sequences if sequence.scored > 0]
        if usable:
            yield conversation, usable


def _encode(line: Line, tokenizer: Tokenizer, conversation: str, max_tokens: int, path: Path) -> TokenSequence:
    if not isinstance(line.content, Text | Chat):
        raise malformed(path, line.number, "has tokens, but text, prompt or messages are asked for")
    try:
        encoded = tokenizer.encode(line.content)
    except NoChatTemplateError as error:
        raise StageError(
            Failure(reason=FailureReason.CHAT_TEMPLATE_MISSING, subject=subject_of(path), line=line.number)
        ) from error
    start, end = encoded.score
    return TokenSequence(encoded.tokens[:max_tokens], (start, max(start, min(end, max_tokens))), conversation)


def load_sequences(
    path: Path, model: Path, *, samples: int | None = None, max_tokens: int, seed: int = 0
) -> list[TokenSequence]:
    """The sequences of a data set, raw or sampled.

    Args:
        path: JSONL as people write it, or as `sample` did; a sampled one is taken as it is.
        model: the folder whose tokenizer raw lines are read with.
        samples: take only the first conversations in the order of their hashes; None for all.
        max_tokens: as for `tokenize`.
        seed: as for `by_conversation`.

    Raises:
        StageError: for a data set that can't be used, or one with fewer conversations than `samples`.
    """
    lines = read_lines(path)
    if isinstance(lines[0].content, Tokens):
        conversations = _sampled(lines, path)
    else:
        tokenizer = Tokenizer(model)
        hashed = by_conversation(without_repeats(lines), seed)
        conversations = tokenize(hashed, tokenizer, max_tokens=max_tokens, path=path)
    chosen = list(islice(conversations, samples))
    if len(chosen) < (samples or 1):
        raise too_few(path, have=len(chosen), need=samples or 1)
    return [sequence for _, sequences in chosen for sequence in sequences]


def _sampled(lines: Sequence[Line], path: Path) -> Iterator[tuple[str, list[TokenSequence]]]:
    """Conversations in the order in which they are written."""
    conversations: dict[str, list[TokenSequence]] = {}
    for line in lines:
        content = line.content
        if not isinstance(content, Tokens) or line.conversation is None:
            raise malformed(path, line.number, "not as sample writes it, as the first line is")
        sequence = TokenSequence(content.tokens, content.score, line.conversation)
        conversations.setdefault(line.conversation, []).append(sequence)
    yield from conversations.items()


def too_few(path: Path, *, have: int, need: int) -> StageError:
    """The error for a data set with too few conversations."""
    return StageError(
        Failure(reason=FailureReason.TOO_FEW_CONVERSATIONS, subject=subject_of(path), have=have, need=need)
    )


def check_vocabulary(sequences: Iterable[TokenSequence], model: Path, data: Path) -> None:
    """Make sure that every token is one of the model's.

    Raises:
        StageError: `DATASET_MALFORMED` with the first sequence's number, if the data are another model's;
            `MODEL_MALFORMED` if its config.json tells no size of the vocabulary.
    """
    vocabulary = read_config(model).get("vocab_size")
    if not isinstance(vocabulary, int):
        raise StageError(
            Failure(reason=FailureReason.MODEL_MALFORMED, subject="config.json"), detail="it has no vocab_size"
        )
    for number, sequence in enumerate(sequences, start=1):
        if max(sequence.tokens) >= vocabulary:
            raise malformed(data, number, "has a token that the model does not know, sampled for another model")


def to_jsonl(sequences: Iterable[TokenSequence]) -> bytes:
    """The lines of a sampled set."""
    rows = (
        {"tokens": sequence.tokens, "score": sequence.score, "conversation": sequence.conversation}
        for sequence in sequences
    )
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows).encode()


def sequences_digest(sequences: Iterable[TokenSequence]) -> str:
    """SHA-256, in hex, of the sequences as a sampled set."""
    return hashlib.sha256(to_jsonl(sequences)).hexdigest()
