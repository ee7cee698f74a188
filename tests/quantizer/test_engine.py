"""A candidate measured through a running engine: a small server, with a tiny model behind it, stands for vLLM."""

import json
import threading
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from saffron_api.failures import FailureReason, StageError
from saffron_api.quantized_model import Gates, UpperLimit, Verdict
from saffron_api.results import FigureName
from saffron_quantizer.checkpoint.identity import model_digest
from saffron_quantizer.data.sequences import TokenSequence
from saffron_quantizer.engine_address import Engine
from saffron_quantizer.evaluation.evaluate import EvaluateRequest, evaluate
from saffron_quantizer.evaluation.window import limit_scored
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.progress import ignore
from saffron_quantizer.report import finished_report, judged, to_json

SECRET = "w17 w23"


@dataclass
class Served:
    """What the server knows, and how it is to misbehave.

    Attributes:
        model: whose log-probabilities it tells.
        most: the tokens that it takes.
        instead: by path, a status, headers and a body that are sent instead of an answer.
        asked: the bodies of the requests for completions.
    """

    model: ModelStream
    most: int = 64
    instead: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)

    def logprobs(self, tokens):
        """As vLLM tells them: nothing of the first token, then each token's own and the rank that it has."""
        (hidden,) = self.model.final_hidden([torch.tensor(tokens)])
        log = self.model.logits(hidden).float().log_softmax(dim=1)
        own = [log[place, token].item() for place, token in enumerate(tokens[1:])]
        entries = zip(tokens[1:], own, strict=True)
        return [
            None,
            *({str(token): {"logprob": value, "rank": 1, "decoded_token": SECRET}} for token, value in entries),
        ]


@pytest.fixture
def served(speaking_checkpoint):
    return Served(ModelStream.open(speaking_checkpoint))


@pytest.fixture
def engine(served):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer({"data": [{"id": "small", "max_model_len": served.most}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            served.asked.append(body)
            choices = [
                {"index": number, "text": SECRET, "prompt_logprobs": served.logprobs(tokens)}
                for number, tokens in enumerate(body["prompt"])
            ]
            self.answer({"choices": choices[::-1]})  # in no order that anybody promised

        def answer(self, value):
            status, headers, body = served.instead.get(self.path, (200, {}, json.dumps(value).encode()))
            self.send_response(status)
            for name, told in headers.items():
                self.send_header(name, told)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Engine(url=f"http://127.0.0.1:{server.server_port}/v1", model="small")
    server.shutdown()
    server.server_close()


def gate_set(conversations):
    torch.manual_seed(0)
    sequences = []
    for number in range(conversations):
        tokens = (1, *torch.randint(7, 97, (5 + number % 9,)).tolist())
        sequences.append(TokenSequence(tokens, (1 + number % 3, len(tokens)), f"c{number}"))
    return limit_scored(sequences)


@pytest.fixture
def request_(speaking_model, speaking_checkpoint, engine):
    return EvaluateRequest(
        original=speaking_model,
        model_digest=model_digest(speaking_model, hash_cache=None),
        candidate=speaking_checkpoint,
        sequences=gate_set(35),
        baseline=None,
        confidence=0.95,
        engine=engine,
    )


def test_the_perplexity_is_the_one_that_we_compute_and_what_the_engine_can_not_tell_is_absent(request_):
    through, ours = evaluate(request_, None, ignore), evaluate(replace(request_, engine=None), None, ignore)
    assert [row.name for row in through.gates] == [FigureName.PERPLEXITY_RATIO, FigureName.CHECKPOINT_BYTES_RATIO]
    own = next(row for row in ours.gates if row.name is FigureName.PERPLEXITY_RATIO)
    # Our states are rounded to float16, which a log-probability shows in the fourth digit.
    assert [through.gates[0].value, through.gates[0].lower, through.gates[0].upper] == pytest.approx(
        [own.value, own.lower, own.upper], rel=2e-3
    )
    assert through.perplexity_original == pytest.approx(ours.perplexity_original, rel=1e-6)
    assert (through.units, through.scored_tokens) == (ours.units, ours.scored_tokens)


def test_only_log_probabilities_of_the_texts_own_tokens_are_asked_for(request_, served):
    evaluate(request_, None, ignore)
    assert [tokens for body in served.asked for tokens in body.pop("prompt")] == [
        list(sequence.tokens) for sequence in request_.sequences
    ]
    rest = {"model": "small", "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    assert served.asked == [rest] * 5


def test_a_gate_on_what_was_not_measured_is_inconclusive(request_):
    report = judged(evaluate(request_, None, ignore), Gates(kl_divergence=UpperLimit(max=100)))
    assert (report.verdict, report.units_needed) == (Verdict.INCONCLUSIVE, None)


def test_figures_of_an_engine_and_our_own_are_not_taken_for_each_other(request_, tmp_path):
    report = evaluate(request_, None, ignore)
    (tmp_path / "report.json").write_text(to_json(report))
    read = finished_report(tmp_path / "report.json")
    assert evaluate(request_, read, ignore) is read
    assert len(evaluate(replace(request_, engine=None), read, ignore).gates) == 4


def failure(request):
    with pytest.raises(StageError) as caught:
        evaluate(request, None, ignore)
    assert SECRET not in str(caught.value)
    return caught.value


COMPLETIONS = "/v1/completions"
NOT_A_NUMBER = {"choices": [{"index": 0, "prompt_logprobs": [None, *([{"1": {"logprob": 0}}] * 20)]}]}
MISBEHAVIOUR = {
    "a redirect, which is not followed": (
        {COMPLETIONS: (307, {"Location": "http://127.0.0.1:1/v1/completions"}, b"")},
        "POST /completions ended with the HTTP status 307",
    ),
    "an error, whose text is not told": (
        {COMPLETIONS: (400, {}, SECRET.encode())},
        "POST /completions ended with the HTTP status 400",
    ),
    "no JSON": ({COMPLETIONS: (200, {}, SECRET.encode())}, "its answer is no JSON"),
    "no log-probabilities": (
        {COMPLETIONS: (200, {}, b'{"choices": [{"index": 0, "text": "w17 w23"}]}')},
        "its answer has no prompt_logprobs of every token",
    ),
    "log-probabilities of other tokens": (
        {COMPLETIONS: (200, {}, json.dumps(NOT_A_NUMBER).encode())},
        "its answer has no prompt_logprobs of every token",
    ),
    "a list of models that is none": ({"/v1/models": (200, {}, b"[1]")}, "its list of models is not as vLLM writes it"),
}


@pytest.mark.parametrize(("instead", "why"), MISBEHAVIOUR.values(), ids=MISBEHAVIOUR.keys())
def test_an_engine_that_answers_with(instead, why, request_, served):
    served.instead = instead
    found = failure(request_)
    assert (found.failure.reason, found.detail) == (FailureReason.ENGINE_FAILED, why)
    assert found.failure.subject == request_.engine.url


def test_an_engine_that_is_not_there_is_told_before_anything_is_computed(request_):
    progress = []
    with pytest.raises(StageError) as raised:
        evaluate(replace(request_, engine=Engine(url="http://127.0.0.1:9/v1", model="small")), None, progress.append)
    assert (raised.value.failure.reason, raised.value.detail) == (FailureReason.ENGINE_FAILED, "Connection refused")
    assert progress == []


def test_a_log_probability_that_is_not_finite(request_, served, monkeypatch):
    told = served.logprobs
    monkeypatch.setattr(served, "logprobs", lambda tokens: [*told(tokens)[:-1], {str(tokens[-1]): {"logprob": -1e999}}])
    assert failure(request_).failure.reason is FailureReason.FIGURES_NOT_FINITE


def test_a_model_that_is_not_served(request_):
    found = failure(replace(request_, engine=request_.engine.model_copy(update={"model": "large"})))
    assert (found.failure.reason, found.detail) == (FailureReason.SPEC_INVALID, "the engine serves small")


def test_sequences_that_are_too_long_for_it(request_, served):
    served.most = 14
    found = failure(request_)
    assert found.failure.reason is FailureReason.SPEC_INVALID
    assert found.detail == "it takes sequences of 13 tokens, and the longest here has 14"
    served.most = 15
    evaluate(request_, None, ignore)


BAD_URLS = (
    "localhost:8000",
    "ftp://host/v1",
    "http:///v1",
    "http://a:b@host/v1",
    "http://host/v1?key=x",
    "http://h:x/",
)


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_that_is_refused(url):
    with pytest.raises(ValidationError):
        Engine(url=url, model="m")
