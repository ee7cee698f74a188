"""Text from a model, token by token: the most likely one each time, or one drawn at a temperature."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.data.lines import Chat, Text, malformed, read_lines
from saffron_quantizer.data.tokenizer import NoChatTemplateError, Tokenizer
from saffron_quantizer.models.whole import WholeModel

_CONTEXT = 6
"""Tokens of the prompt that the first new ones are decoded with: a space may depend on what stands before it."""
_UNFINISHED = "\ufffd"
"""What stands for the bytes of a character of which more tokens are to come."""


@dataclass(frozen=True)
class Sampling:
    """How each token is chosen, and how many at most.

    Attributes:
        max_new_tokens: after so many it ends, if no stop token came before.
        temperature: 0 for the most likely token; else logits are divided by it before one is drawn.
        seed: of the draws; every prompt begins with it anew.
    """

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Step:
    """One token.

    Attributes:
        token: its id.
        gap: how far the largest logit was above the second largest. Where another engine goes on with another token,
            this tells whether rounding can be the reason.
        stops: whether it is one of the model's stop tokens, which end a text and are no part of it.
    """

    token: int
    gap: float
    stops: bool


@dataclass(frozen=True)
class Completion:
    """What a model made of a prompt.

    Attributes:
        text: without special tokens.
        steps: at least one.
        prompt_seconds: until the first token was known.
        seconds: from then on.
    """

    text: str
    steps: list[Step]
    prompt_seconds: float
    seconds: float


def read_prompts(path: Path, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """The token ids of each line of a data set of texts, prompts or messages.

    Raises:
        StageError: as for `read_lines`; `DATASET_MALFORMED` for a line that `sample` wrote; `CHAT_TEMPLATE_MISSING`.
    """
    prompts = []
    for line in read_lines(path):
        if not isinstance(line.content, Text | Chat):
            raise malformed(path, line.number, "has tokens, but text, prompt or messages are asked for")
        try:
            prompts.append(tokenizer.encode_prompt(line.content))
        except NoChatTemplateError as error:
            failure = Failure(reason=FailureReason.CHAT_TEMPLATE_MISSING, subject=subject_of(path), line=line.number)
            raise StageError(failure) from error
    return prompts


def complete(
    model: WholeModel, tokenizer: Tokenizer, prompt: Sequence[int], sampling: Sampling, on_text: Callable[[str], None]
) -> Completion:
    """Go on with a prompt and tell the text as it comes.

    Args:
        model: in memory.
        tokenizer: the model's.
        prompt: token ids.
        sampling: how.
        on_text: called with each piece of text as soon as it is sure.

    Raises:
        StageError: as for `generate`.
    """
    growing = GrowingText(tokenizer, prompt)
    steps: list[Step] = []
    begun = first = time.monotonic()
    for step in generate(model, prompt, sampling):
        if not steps:
            first = time.monotonic()
        steps.append(step)
        if not step.stops:
            on_text(growing.add(step.token))
    on_text(growing.end())
    return Completion(growing.text, steps, first - begun, time.monotonic() - first)


def generate(model: WholeModel, prompt: Sequence[int], sampling: Sampling) -> Iterator[Step]:
    """Go on with a prompt until a stop token comes or the tokens are as many as are asked for.

    Args:
        model: in memory.
        prompt: token ids.
        sampling: how.

    Raises:
        StageError: `SPEC_INVALID` if the prompt has no token, or if prompt and new tokens together are more than the
            model has positions; `FIGURES_NOT_FINITE` if a logit is NaN, or the largest infinite.
    """
    if not prompt:
        raise StageError(Failure(reason=FailureReason.SPEC_INVALID, subject=subject_of("prompt=(none)")))
    model.require_positions(len(prompt) + sampling.max_new_tokens)
    draws = torch.Generator().manual_seed(sampling.seed)
    cache = model.new_cache()
    tokens = prompt
    for _ in range(sampling.max_new_tokens):
        logits = model.next_logits(tokens, cache)
        largest, second = logits.topk(2).values.tolist()  # NaN is larger than any number
        if not math.isfinite(largest):
            raise StageError(Failure(reason=FailureReason.FIGURES_NOT_FINITE, subject="largest_logit"))
        token = int(logits.argmax()) if sampling.temperature == 0 else _drawn(logits, sampling.temperature, draws)
        step = Step(token, largest - second, stops=token in model.stop_tokens)
        yield step
        if step.stops:
            return
        tokens = (token,)


def _drawn(logits: Tensor, temperature: float, draws: torch.Generator) -> int:
    """One token with probabilities in proportion to exp(logit / temperature)."""
    # On the CPU, where a seed gives the same draws on every machine.
    logits = logits.cpu().double()
    # Below the largest first: a tiny temperature makes infinite numbers of all else, and those have no difference.
    probabilities = torch.softmax((logits - logits.max()) / temperature, dim=0)
    return int(torch.multinomial(probabilities, 1, generator=draws))


class GrowingText:
    """The text of tokens as they come, which need not end where characters do.

    Attributes:
        text: what was given out.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._tokens = list(prompt[-_CONTEXT:])
        self._begin, self._told = 0, len(self._tokens)
        self.text = ""

    def add(self, token: int) -> str:
        """Take one more token and give the text that is sure with it, which may be none."""
        self._tokens.append(token)
        new = self._rest()
        if new.endswith(_UNFINISHED):
            return ""
        self._begin, self._told = self._told, len(self._tokens)
        self.text += new
        return new

    def end(self) -> str:
        """What was held back, as far as it can be read."""
        rest = self._rest()
        self.text += rest
        return rest

    def _rest(self) -> str:
        """The text of the tokens that are not told, as it stands behind those before them."""
        known = self._tokenizer.decode(self._tokens[self._begin : self._told])
        return self._tokenizer.decode(self._tokens[self._begin :])[len(known) :]
