"""The model card: what the hub reads, and the whole text of one."""

import pytest
import yaml

from saffron_api.candidate import Method, Scheme
from saffron_api.quantized_model import Gates, UpperLimit
from saffron_quantizer.card import model_card
from saffron_quantizer.engine_address import Engine
from saffron_quantizer.report import judged

GATES = Gates(perplexity_ratio=UpperLimit(max=1.2))


@pytest.fixture
def report(make_report):
    return judged(make_report(name="gptq-int4"), GATES)


def front_matter(card):
    _, text, _ = card.split("---\n", 2)
    return yaml.safe_load(text)


def test_the_hub_reads_what_it_is(report):
    card = model_card(report, [], title="Gemma, smaller", base_model="google/gemma-3-270m")
    assert front_matter(card) == {
        "base_model": "google/gemma-3-270m",
        "base_model_relation": "quantized",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["quantized", "saffron", "gptq", "w4a16"],
        "quantization": report.candidate.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def test_without_a_name_only_the_originals_digest_is_told(report):
    card = model_card(report, [], title="t", base_model=None)
    assert not {"base_model", "base_model_relation"} & set(front_matter(card))
    assert f"the model with the digest `{'a' * 64}`, quantized with GPTQ W4A16 g128" in card


def test_the_whole_card(report, make_report):
    other = judged(make_report(Method.RTN, Scheme.W8A8, size=600, loss=0.01, name="int8"), GATES)
    report = report.model_copy(update={"tensor_parallel": 4})
    card = model_card(report, [other], title="Gemma, smaller", base_model="google/gemma-3-270m")
    body = card.split("---\n", 2)[2]
    assert body == WHOLE


WHOLE = """
# Gemma, smaller

`google/gemma-3-270m`, quantized with GPTQ W4A16 g128: 400.0 MB instead of 1.0 GB, 40.0% of its bytes.

## How it was made

|  |  |
| --- | --- |
| recipe | GPTQ W4A16 g128 |
| linears quantized | 12 |
| largest damping of a Hessian | 0.02 |
| dead input columns | 2 |
| GPUs that can serve it together | up to 4 |
| checkpoint | `0000000000000000000000000000000000000000000000000000000000000190` |
| original | `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa` |

## How it compares with the original

| figure | value | lower bound | upper bound | limit | verdict |
| --- | --- | --- | --- | --- | --- |
| perplexity ratio | 1.1 | 1.08 | 1.13 | 1.2 | Pass |
| KL, nats a token | 0.1 | 0.09 | 0.12 | - | - |
| same top token | 0.9 | 0.88 | 0.95 | - | - |
| size ratio | 0.4 | 0.4 | 0.4 | - | - |

Measured by Saffron's own forward pass on 60 conversations with 15,360 scored tokens, which the weights were not \
fitted to; data `dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd`. Perplexity 20 of the original, 22 \
of this. Each bound is one-sided, at a confidence of 0.95, by a bootstrap over conversations. Verdict: **Pass**.

At 60 conversations the smallest margin that can be shown, 4 times out of 5, is 0.046 for perplexity ratio, 0.03 \
for KL, nats a token, 0.03 for same top token.

## Beside the other candidates

| candidate | bytes | perplexity ratio | KL, nats a token | same top token | size ratio | verdict |
| --- | --- | --- | --- | --- | --- | --- |
| gptq-int4 | 400.0 MB | 1.1 (1.08 to 1.13) | 0.1 (0.09 to 0.12) | 0.9 (0.88 to 0.95) | 0.4 | Pass |
| int8 | 600.0 MB | 1.01 (1.008 to 1.013) | 0.01 (0.009 to 0.012) | 0.99 (0.988 to 0.995) | 0.6 | Pass |

## What these figures do not tell

- They compare distributions of the next token on given text: they run no benchmark, generate no answers, judge no \
style.
- They speak of data like those that were measured: a language or a task that is missing from them may be damaged \
unseen.
- The bounds take conversations to be independent, and are approximate, the more so with few and very unequal ones.
- Engines round a little differently from what was measured, and from each other.

The licence and the terms of use are those of the original.
"""


def test_what_an_engine_can_not_tell_is_left_out(make_report):
    report = make_report(engine=Engine(url="http://localhost:8000/v1", model="m"))
    card = model_card(report, [], title="t", base_model=None)
    assert "through a running vLLM, the original by Saffron" in card
    assert "KL, nats a token" not in card


def test_too_few_conversations_show_no_margin(make_report):
    assert "At 12 conversations no margin can be shown; 30 are the least." in model_card(
        make_report(units=12), [], title="t", base_model=None
    )
