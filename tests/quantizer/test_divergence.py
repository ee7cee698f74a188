"""The figures of tokens, against their definitions in float64 over the whole vocabulary at once."""

import pytest
import torch
from tinymodels.head import Head

from saffron_api.failures import Failure, FailureReason, StageError
from saffron_quantizer.evaluation import vocabulary
from saffron_quantizer.evaluation.divergence import Scored, compare_tokens
from saffron_quantizer.progress import ignore


def make(tokens=7, words=50, hidden=16, *, scale=1.0, dtype=torch.float32, softcap=None, seed=0):
    torch.manual_seed(seed)
    head = Head((torch.randn(words, hidden) * scale).to(dtype), softcap)
    p = torch.randn(tokens, hidden).to(dtype)
    q = (p.float() + 0.3 * torch.randn(tokens, hidden)).to(dtype)
    return head, p, q, torch.randint(0, words, (tokens,))


def reference(head, states):
    """Log-probabilities in float64, [N, vocabulary]."""
    return head.cap(states.double() @ head.head.double().T).log_softmax(dim=1)


CASES = {
    "a small vocabulary": {},
    "one token": {"tokens": 1},
    "one word": {"words": 1},
    "a vocabulary that is no whole number of pieces": {"words": 8 * 3 + 1},
    "a vocabulary of whole pieces": {"words": 8 * 3},
    "more tokens than a chunk": {"tokens": 11},
    "logits of hundreds": {"scale": 60.0},
    "a head that caps its logits": {"scale": 10.0, "softcap": 30.0},
    "bfloat16": {"dtype": torch.bfloat16, "scale": 3.0},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_figures_equal_their_definitions(case, monkeypatch):
    # Small pieces, so that running maxima and normalizers have several to run over.
    monkeypatch.setattr(vocabulary, "VOCABULARY_PER_PIECE", 8)
    monkeypatch.setattr("saffron_quantizer.evaluation.divergence.TOKENS_PER_CHUNK", 4)
    head, p, q, targets = make(**case)
    found = compare_tokens(Scored(head, p), Scored(head, q), targets, progress=ignore)
    log_p, log_q = reference(head, p), reference(head, q)
    rows = torch.arange(len(targets))
    # Logits of size L are off by L times a few float32 roundings, of 1.2e-7 each; L is at most 1,000 here.
    close = {"rtol": 1e-5, "atol": 2e-3 if case.get("scale", 0) > 50 else 5e-5}
    torch.testing.assert_close(found.nll_original, -log_p[rows, targets], **close)
    torch.testing.assert_close(found.nll_candidate, -log_q[rows, targets], **close)
    torch.testing.assert_close(found.divergence, (log_p.exp() * (log_p - log_q)).sum(dim=1), **close)
    assert found.agreement.tolist() == (log_p.argmax(dim=1) == log_q.argmax(dim=1)).double().tolist()


def test_a_model_does_not_diverge_from_itself():
    head, p, _, targets = make(dtype=torch.bfloat16)
    found = compare_tokens(Scored(head, p), Scored(head, p), targets, progress=ignore)
    # The weighted sum is exactly 0; the two normalizers are the same number.
    assert found.divergence.tolist() == [0.0] * len(targets)
    assert found.agreement.tolist() == [1.0] * len(targets)
    assert found.nll_candidate.tolist() == found.nll_original.tolist()


def test_states_that_are_not_finite_are_refused():
    head, p, q, targets = make()
    q[3, 2] = torch.nan
    with pytest.raises(StageError) as caught:
        compare_tokens(Scored(head, p), Scored(head, q), targets, progress=ignore)
    assert caught.value.failure == Failure(reason=FailureReason.FIGURES_NOT_FINITE, subject="logits")


def test_other_vocabularies_are_refused():
    head, p, q, targets = make()
    other, *_ = make(words=51)
    with pytest.raises(StageError) as caught:
        compare_tokens(Scored(head, p), Scored(other, q), targets, progress=ignore)
    assert str(caught.value) == (
        "The request is not valid: --candidate. (the original knows 50 tokens and the candidate 51)"
    )
