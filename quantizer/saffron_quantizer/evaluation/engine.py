"""A candidate in a running engine: the log-probability of each scored token, asked of vLLM's completions API.

What is served is measured, by the kernels that serve it. The engine tells the log-probability of the text's own tokens
(`prompt_logprobs`), so perplexity can be had this way; divergence and agreement need the whole vocabulary and can't.
The tokens leave this process for the engine, and for nowhere else: no redirect is followed and no proxy is asked.
"""

import json
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any

import torch
from torch import Tensor

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.data.sequences import TokenSequence
from saffron_quantizer.engine_address import Engine, address
from saffron_quantizer.progress import Progress, ProgressSink

_SEQUENCES_PER_REQUEST = 8
_SECONDS_PER_REQUEST = 600.0
_MOST_BYTES = 1 << 28
"""A request's answer has about 100 bytes a token; what is longer than this is no answer to ours."""
_OK = 200


def engine_nll(engine: Engine, sequences: Sequence[TokenSequence], progress: ProgressSink) -> Tensor:
    """-log p of each scored token by a running engine, [N] float64, in the order of the sequences.

    Args:
        engine: where it is; passes `check_engine`.
        sequences: as made by `limit_scored`.
        progress: told after each request.

    Raises:
        StageError: `ENGINE_FAILED` if it can't be reached or does not answer as vLLM does, `FIGURES_NOT_FINITE` if a
            log-probability is NaN or infinite.
    """
    found: list[float] = []
    for start in range(0, len(sequences), _SEQUENCES_PER_REQUEST):
        part = sequences[start : start + _SEQUENCES_PER_REQUEST]
        body = {
            "model": engine.model,
            "prompt": [list(sequence.tokens) for sequence in part],
            # It has to generate something.
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
        }
        answer = _ask(engine, "POST", "/completions", body)
        found += _logprobs(engine, answer, part)
        progress(Progress("asking the engine", start + len(part), len(sequences)))
    nll = -torch.tensor(found, dtype=torch.float64)
    if not torch.isfinite(nll).all():
        raise StageError(Failure(reason=FailureReason.FIGURES_NOT_FINITE, subject="prompt_logprobs"))
    return nll


def check_engine(engine: Engine, sequences: Sequence[TokenSequence]) -> None:
    """Make sure that the engine serves the model and takes the longest sequence and one token more.

    Raises:
        StageError: `SPEC_INVALID` if it does not, `ENGINE_FAILED` if it can't be reached or does not answer as vLLM.
    """
    longest = max(len(sequence.tokens) for sequence in sequences)
    answer = _ask(engine, "GET", "/models", None)
    try:
        served = {str(each["id"]): each.get("max_model_len") for each in answer["data"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise _failed(engine, "its list of models is not as vLLM writes it") from error
    if engine.model not in served:
        subject = subject_of(f"--engine-model={engine.model}")
        failure = Failure(reason=FailureReason.SPEC_INVALID, subject=subject)
        raise StageError(failure, detail=f"the engine serves {', '.join(sorted(served)) or 'nothing'}")
    most = served[engine.model]
    if isinstance(most, int) and longest >= most:
        failure = Failure(reason=FailureReason.SPEC_INVALID, subject=subject_of(f"--engine-model={engine.model}"))
        raise StageError(failure, detail=f"it takes sequences of {most - 1} tokens, and the longest here has {longest}")


def _logprobs(engine: Engine, answer: Any, part: Sequence[TokenSequence]) -> list[float]:  # noqa: ANN401 parsed JSON
    """The log-probabilities of the scored tokens of some sequences."""
    try:
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        pairs = zip(part, choices, strict=True)
        return [
            float(choice["prompt_logprobs"][place][str(sequence.tokens[place])]["logprob"])
            for sequence, choice in pairs
            for place in range(*sequence.score)
        ]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise _failed(engine, "its answer has no prompt_logprobs of every token") from error


def _ask(engine: Engine, method: str, path: str, body: Any) -> Any:  # noqa: ANN401 JSON
    """One request, in a connection of its own; http.client follows no redirect and knows no proxy."""
    parts = address(engine.url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_SECONDS_PER_REQUEST)
    try:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        text = None if body is None else json.dumps(body)
        connection.request(method, parts.path.rstrip("/") + path, text, headers)
        response = connection.getresponse()
        data = response.read(_MOST_BYTES + 1)
    except TimeoutError as error:
        raise _failed(engine, f"it did not answer within {_SECONDS_PER_REQUEST:g} seconds") from error
    except (OSError, HTTPException) as error:
        raise _failed(engine, getattr(error, "strerror", None) or type(error).__name__) from error
    finally:
        connection.close()
    if response.status != _OK:
        # Its body may quote the tokens and is not told.
        raise _failed(engine, f"{method} {path} ended with the HTTP status {response.status}")
    if len(data) > _MOST_BYTES:
        raise _failed(engine, f"its answer has more than {_MOST_BYTES} bytes")
    try:
        return json.loads(data)
    except ValueError as error:
        raise _failed(engine, "its answer is no JSON") from error


def _failed(engine: Engine, why: str) -> StageError:
    return StageError(Failure(reason=FailureReason.ENGINE_FAILED, subject=subject_of(engine.url)), detail=why)
