"""A model's tokenizer: texts and chats to token ids with `<bos>` exactly once, and the range of them that is scored."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.data.lines import MIN_SCORE_START, Chat, Text, Turn

_REQUIRED = "tokenizer.json"
_STAND_IN = "\N{OBJECT REPLACEMENT CHARACTER}"
"""In the place of an answer: no template writes it by itself."""
_DIGESTED = (_REQUIRED, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True)
class Encoded:
    """Token ids and the half-open range of those that are scored; it may be empty."""

    tokens: tuple[int, ...]
    score: tuple[int, int]


class NoChatTemplateError(ValueError):
    """The tokenizer can't write a chat as text."""


class Tokenizer:
    """A model folder's tokenizer.

    Attributes:
        digest: SHA-256 of the files that define it.
        template_digest: SHA-256 of its chat template, or None if it has none.
    """

    def __init__(self, folder: Path) -> None:
        """Load it; no code of the model's author is run.

        Raises:
            StageError: `MODEL_MISSING` if there is no folder, `MODEL_INCOMPLETE` without tokenizer.json,
                `MODEL_MALFORMED` if it can't be read.
        """
        if not (folder / "config.json").is_file():
            raise StageError(Failure(reason=FailureReason.MODEL_MISSING, subject=subject_of(folder)))
        if not (folder / _REQUIRED).is_file():
            raise StageError(Failure(reason=FailureReason.MODEL_INCOMPLETE, subject=_REQUIRED), detail=_slow(folder))
        self._fast = _load(folder)
        template = self._fast.chat_template
        self.digest = _digest_files([folder / name for name in _DIGESTED])
        self.template_digest = None if template is None else hashlib.sha256(repr(template).encode()).hexdigest()

    def encode(self, content: Text | Chat) -> Encoded:
        """Tokenize a text, of which all after `<bos>` is scored, or a chat, of which the last answer is.

        Raises:
            NoChatTemplateError: it is a chat, and there is no template.
        """
        return self._encode_text(content.text) if isinstance(content, Text) else self._encode_chat(content)

    def encode_prompt(self, content: Text | Chat) -> tuple[int, ...]:
        """Tokenize what a model is to go on with: a text, or a chat up to where the next answer begins.

        Raises:
            NoChatTemplateError: it is a chat, and there is no template.
        """
        return self._tokenize(content.text if isinstance(content, Text) else self._rendered(content.turns, ask=True))[0]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, without special ones."""
        text: str = self._fast.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def encode_pair(self, context: str, continuation: str) -> Encoded:
        """Tokenize a continuation, which is scored, after its context; white space between them is the former's."""
        kept = context.rstrip()
        tokens, _ = self._tokenize(context + continuation)
        start = len(self._tokenize(kept)[0])
        return Encoded(tokens, (max(MIN_SCORE_START, min(start, len(tokens) - 1)), len(tokens)))

    def _encode_text(self, text: str) -> Encoded:
        tokens, _ = self._tokenize(text)
        return Encoded(tokens, (MIN_SCORE_START, max(MIN_SCORE_START, len(tokens))))

    def _encode_chat(self, chat: Chat) -> Encoded:
        answers = [index for index, turn in enumerate(chat.turns) if turn.role == "assistant"]
        # What follows the last answer has no influence on it.
        turns = chat.turns[: answers[-1] + 1] if answers else chat.turns
        rendered = self._rendered(turns, ask=False)
        if not answers:
            return self._encode_text(rendered)
        # Templates trim an answer; what is left of it stands in the rendered text as it is, before what ends it.
        answer = turns[-1].content.strip()
        start = rendered.rfind(answer, 0, len(rendered) - self._ending(turns))
        if not answer or start < 0:
            return Encoded(self._tokenize(rendered)[0], (MIN_SCORE_START, MIN_SCORE_START))
        tokens, ends = self._tokenize(rendered)
        first = sum(end <= start for end in ends)
        last = sum(end < start + len(answer) for end in ends) + 1
        return Encoded(tokens, (max(MIN_SCORE_START, first), min(last, len(tokens))))

    def _ending(self, turns: Sequence[Turn]) -> int:
        """How many characters the template writes after the last content; the answer may have the same letters."""
        rendered = self._rendered([*turns[:-1], Turn(turns[-1].role, _STAND_IN)], ask=False)
        return len(rendered.rpartition(_STAND_IN)[2])

    def _rendered(self, turns: Sequence[Turn], *, ask: bool) -> str:
        """A chat as text; `ask` adds what an answer begins with."""
        if self._fast.chat_template is None:
            raise NoChatTemplateError
        text: str = self._fast.apply_chat_template(
            [{"role": turn.role, "content": turn.content} for turn in turns], tokenize=False, add_generation_prompt=ask
        )
        return text

    def _tokenize(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Token ids with one `<bos>` in front, and for each the character where it ends."""
        encoding = self._fast(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        tokens: list[int] = encoding["input_ids"]
        ends = [end for _, end in encoding["offset_mapping"]]
        bos = self._fast.bos_token_id
        if bos is None:
            return tuple(tokens), tuple(ends)
        # A template, or the text itself, may have written it already.
        written = next((index for index, token in enumerate(tokens) if token != bos), len(tokens))
        return (bos, *tokens[written:]), (0, *ends[written:])


def _slow(folder: Path) -> str:
    """What a person is told whose model has a tokenizer in another form."""
    if not (folder / "tokenizer.model").is_file():
        return ""
    return "it has tokenizer.model alone; transformers' AutoTokenizer writes the other when it saves what it loaded"


def _load(folder: Path) -> Any:  # noqa: ANN401 transformers' classes have no types
    # Loaded here, since the import takes seconds that `--help` need not wait for.
    from transformers import AutoTokenizer  # noqa: PLC0415

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_fast=True)
    except Exception as error:
        # The library raises what its parsers raise, down to bare Exception.
        raise StageError(Failure(reason=FailureReason.MODEL_MALFORMED, subject=_REQUIRED)) from error


def _digest_files(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
