"""A candidate against the original's distributions: as by the definitions in float64, from one model's logits."""

from dataclasses import replace

import pytest
import torch
from tinymodels.head import Head

from saffron_api.failures import Failure, FailureReason, StageError
from saffron_quantizer.evaluation import vocabulary
from saffron_quantizer.evaluation.distributions import (
    Distributions,
    comparable,
    compare_distributions,
    original_distributions,
)
from saffron_quantizer.evaluation.divergence import Scored, compare_tokens
from saffron_quantizer.evaluation.vocabulary import weighted_rows
from saffron_quantizer.progress import ignore


def make(tokens=7, words=50, hidden=16, *, scale=1.0, dtype=torch.float32, softcap=None, distance=0.3):
    torch.manual_seed(0)
    head = Head((torch.randn(words, hidden) * scale).to(dtype), softcap)
    p = torch.randn(tokens, hidden).to(dtype)
    q = (p.float() + distance * torch.randn(tokens, hidden)).to(dtype)
    return Scored(head, p), Scored(head, q), torch.randint(0, words, (tokens,))


def log_probabilities(scored):
    """In float64, [N, vocabulary]."""
    return (scored.states.double() @ scored.stream.head.double().T).log_softmax(dim=1)


def compare(original, candidate, targets):
    p = original_distributions(original, targets, progress=ignore)
    return compare_distributions(p, original, candidate, targets, progress=ignore)


CASES = {
    "a small vocabulary": {},
    "one token": {"tokens": 1},
    "one word": {"words": 1},
    "a vocabulary that is no whole number of pieces": {"words": 8 * 3 + 1},
    "a vocabulary of whole pieces": {"words": 8 * 3},
    "more tokens than a chunk": {"tokens": 11},
    "logits of hundreds": {"scale": 60.0},
    "bfloat16": {"dtype": torch.bfloat16, "scale": 3.0},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_figures_equal_their_definitions(case, monkeypatch):
    # Small pieces, so that running maxima, normalizers and means have several to run over.
    monkeypatch.setattr(vocabulary, "VOCABULARY_PER_PIECE", 8)
    monkeypatch.setattr("saffron_quantizer.evaluation.distributions.TOKENS_PER_CHUNK", 4)
    original, candidate, targets = make(**case)
    found = compare(original, candidate, targets)
    log_p, log_q = log_probabilities(original), log_probabilities(candidate)
    rows = torch.arange(len(targets))
    # Logits of size L are off by L times a few float32 roundings, of 1.2e-7 each; L is at most 1,000 here.
    close = {"rtol": 1e-5, "atol": 2e-3 if case.get("scale", 0) > 50 else 5e-5}
    torch.testing.assert_close(found.nll_original, -log_p[rows, targets], **close)
    torch.testing.assert_close(found.nll_candidate, -log_q[rows, targets], **close)
    torch.testing.assert_close(found.divergence, (log_p.exp() * (log_p - log_q)).sum(dim=1), **close)
    assert found.agreement.tolist() == (log_p.argmax(dim=1) == log_q.argmax(dim=1)).double().tolist()


def test_both_ways_agree_on_all_but_rounding():
    original, candidate, targets = make(tokens=40, words=500, hidden=32)
    one, two = compare(original, candidate, targets), compare_tokens(original, candidate, targets, progress=ignore)
    assert one.nll_original.tolist() == two.nll_original.tolist()
    assert one.nll_candidate.tolist() == two.nll_candidate.tolist()
    assert one.agreement.tolist() == two.agreement.tolist()
    # Logits reach 20 here, and a float32 of that size is rounded by 1e-6.
    torch.testing.assert_close(one.divergence, two.divergence, rtol=0, atol=1e-5)


@pytest.mark.parametrize("distance", [1e-1, 1e-2, 1e-3])
def test_a_small_divergence_is_right_to_a_millionth_of_a_nat(distance):
    # Where the candidate is near its original, terms of the size of a logit must not cancel into noise.
    original, candidate, targets = make(tokens=500, words=3000, hidden=64, scale=0.3, distance=distance)
    found = compare(original, candidate, targets).divergence
    log_p, log_q = log_probabilities(original), log_probabilities(candidate)
    expected = (log_p.exp() * (log_p - log_q)).sum(dim=1)
    assert found.mean().item() == pytest.approx(expected.mean().item(), abs=1e-6)
    # One token: a float32 logit of at most 16 is rounded by up to 1e-6, several times.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_model_does_not_diverge_from_itself():
    original, _, targets = make(dtype=torch.bfloat16)
    found = compare(original, original, targets)
    assert found.divergence.tolist() == [0.0] * len(targets)
    assert found.agreement.tolist() == [1.0] * len(targets)
    assert found.nll_candidate.tolist() == found.nll_original.tolist()


def test_the_mean_of_the_head_is_the_mean_of_its_rows_under_the_original():
    original, _, targets = make(tokens=9, words=70)
    p = original_distributions(original, targets, progress=ignore)
    expected = log_probabilities(original).exp() @ original.stream.head.double()
    # A probability is off by the rounding of a float32 logit, 1e-6 at 10, and a row's numbers are below 4.
    torch.testing.assert_close(p.mean_head.double(), expected, rtol=0, atol=1e-5)


def test_what_is_written_comes_back():
    original, _, targets = make()
    p = original_distributions(original, targets, progress=ignore)
    again = Distributions.of_tensors(p.tensors)
    assert all(again.tensors[name] is tensor for name, tensor in p.tensors.items())
    assert sorted(p.tensors) == ["log_mass", "mean_head", "target", "top_token"]


def other_head(scored):
    return replace(scored, stream=Head(scored.stream.head + 1e-3))


def copied_head(scored):
    return replace(scored, stream=Head(scored.stream.head.clone()))


def capped(scored):
    return replace(scored, stream=Head(scored.stream.head, softcap=30.0))


COMPARABLE = {
    "the same head": (copied_head, True),
    "another head": (other_head, False),
    "a head that caps its logits": (capped, False),
}


@pytest.mark.parametrize(("change", "expected"), COMPARABLE.values(), ids=COMPARABLE.keys())
def test_a_candidate_is_comparable_that_has(change, expected):
    original, candidate, targets = make()
    p = original_distributions(original, targets, progress=ignore)
    assert comparable(p, original, change(candidate)) is expected


def test_capped_logits_have_no_mean_and_are_not_comparable():
    original, candidate, targets = make(scale=10.0, softcap=30.0)
    p = original_distributions(original, targets, progress=ignore)
    assert p.mean_head is None
    assert not comparable(p, original, candidate)
    direct = compare_tokens(original, candidate, targets, progress=ignore)
    assert p.nll.tolist() == direct.nll_original.tolist()


def test_states_that_are_not_finite_are_refused():
    original, candidate, targets = make()
    p = original_distributions(original, targets, progress=ignore)
    candidate.states[3, 2] = torch.nan
    with pytest.raises(StageError) as caught:
        compare_distributions(p, original, candidate, targets, progress=ignore)
    assert caught.value.failure == Failure(reason=FailureReason.FIGURES_NOT_FINITE, subject="logits")
    with pytest.raises(StageError) as caught:
        original_distributions(candidate, targets, progress=ignore)
    assert caught.value.failure == Failure(reason=FailureReason.MODEL_NOT_FINITE, subject="logits")


def test_weighted_rows_are_summed_in_float32():
    torch.manual_seed(0)
    weights, rows = torch.rand(5, 300), torch.randn(300, 33)
    # bfloat16 would be off by 1e-1 here; sums of 300 float32 products are off by a few units of 1e-6.
    torch.testing.assert_close(
        weighted_rows(weights, rows).double(), weights.double() @ rows.double(), rtol=0, atol=5e-5
    )
