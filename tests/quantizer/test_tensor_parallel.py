"""On how many cards a checkpoint can be served together, from its shapes."""

import pytest

from saffron_api.candidate import CandidateSpec
from saffron_api.failures import ExitCode
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.cli.main import main
from saffron_quantizer.models.architectures import ARCHITECTURES
from saffron_quantizer.plan import make_plan
from saffron_quantizer.tensor_parallel import (
    Divided,
    Heads,
    heads_of,
    largest_size,
    require_cards,
    tensor_parallel,
    writes_back,
)

MANY = Heads(64, 8)
SIZES = {
    "all divides": (MANY, [Divided(4096, 128), Divided(14336)], 8),
    "half a group on each of eight cards": (MANY, [Divided(4096, 128), Divided(512, 128)], 4),
    "a group and a half": (MANY, [Divided(384, 128)], 1),
    "the same with smaller groups": (MANY, [Divided(384, 32)], 4),
    "rows that fill no word": (MANY, [Divided(40, 8)], 1),
    "an odd size": (MANY, [Divided(4097)], 1),
    "less than a group for one card": (MANY, [Divided(96, 128)], 1),
    "queries that do not divide": (Heads(12, 4), [Divided(4096)], 4),
    "keys that several cards share": (Heads(8, 2), [Divided(128, 1, most=2)], 8),
    "keys that no number of cards can share": (Heads(24, 3), [], 1),
    "Gemma 3 270M, of one head of keys and groups of 128": (Heads(4, 1), [Divided(1024, 128), Divided(2048, 128)], 4),
}


@pytest.mark.parametrize(("heads", "linears", "expected"), SIZES.values(), ids=SIZES)
def test_the_largest_number_of_cards(heads, linears, expected):
    assert largest_size(heads, linears) == expected


HEADS = {
    "both": ({"num_attention_heads": 8, "num_key_value_heads": 2}, Heads(8, 2)),
    "as many keys as queries": ({"num_attention_heads": 8}, Heads(8, 8)),
    "none": ({}, None),
    "what is no number": ({"num_attention_heads": [4, 8]}, None),
    "no head": ({"num_attention_heads": 0}, None),
}


@pytest.mark.parametrize(("config", "expected"), HEADS.values(), ids=HEADS)
def test_a_config_tells_of(config, expected):
    assert heads_of(config) == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: architecture.name)
def test_what_writes_back_is_the_last_of_each_part_and_no_other(architecture):
    lasts = {sublayer.last for sublayer in architecture.sublayers}
    found = {linear for group in architecture.input_groups for linear in group if writes_back(architecture, linear)}
    assert lasts <= found
    assert len(found) == 2
    if architecture.mixture is not None:
        inner, outer = architecture.mixture.groups("7")
        assert [writes_back(architecture, linear) for linear in (*inner, *outer)] == [False, False, True]


# Tiny: hidden 64, MLP 128, 4 heads of queries and 2 of keys, each of 16.
MODELS = {
    "groups of 32": ({"scheme": "W4A16", "group_size": 32}, {}, 2),
    "groups of 64 that are all the input there is": ({"scheme": "W4A16", "group_size": 64}, {}, 1),
    "groups of 64 where the attention is not quantized": (
        {"scheme": "W4A16", "group_size": 64, "ignore": ["*.self_attn.*"]},
        {},
        2,
    ),
    "a scale for each channel": ({"scheme": "W8A8"}, {}, 4),
    "8-bit weights in words": ({"scheme": "W8A16"}, {"intermediate_size": 136}, 2),
    "a wider MLP than its parts": ({"scheme": "W8A8"}, {"intermediate_size": 130}, 2),
}


@pytest.mark.parametrize(("settings", "fields", "expected"), MODELS.values(), ids=MODELS)
def test_a_tiny_llama_with(tiny_model, settings, fields, expected):
    reader = CheckpointReader(tiny_model("Llama", **fields))
    assert tensor_parallel(reader, make_plan(reader, CandidateSpec(method="RTN", **settings))) == expected


@pytest.mark.parametrize("name", ["Mixtral", "Qwen3Moe", "Phi3", "GPTNeoX", "OPT", "Gemma3Text"])
def test_every_kind_of_architecture_is_known(tiny_model, name):
    reader = CheckpointReader(tiny_model(name))
    found = {
        scheme: tensor_parallel(reader, make_plan(reader, CandidateSpec(method="RTN", scheme=scheme, **more)))
        for scheme, more in (("W4A16", {"group_size": 32}), ("W8A8", {}))
    }
    assert found["W4A16"] <= found["W8A8"]
    assert found["W8A8"] == 4


def quantize(model, out, cards):
    what = ("--method", "rtn", "--scheme", "w4a16", "--group-size", "32", "--tensor-parallel", str(cards))
    with pytest.raises(SystemExit) as caught:
        main(["quantize", "--model", str(model), *what, "--out", str(out)])
    return caught.value.code


def test_a_checkpoint_that_so_many_cards_cannot_share_is_refused_before_any_work(
    tiny_model, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("saffron_quantizer.cli.main.end_at_sigterm", lambda: None)
    assert quantize(tiny_model("Llama"), tmp_path / "out", 4) == ExitCode.UNSUPPORTED
    assert capsys.readouterr().err.splitlines() == [
        "error: 4 cards can't serve the candidate together: at most 2 can share its linears in whole groups and heads.",
        "  what to do: choose a smaller group size, another scheme or fewer cards.",
    ]
    assert not (tmp_path / "out").exists()
    assert quantize(tiny_model("Llama"), tmp_path / "out", 2) == ExitCode.DONE


def test_where_nothing_is_known_of_cards_it_is_said_so(tiny_model, caplog, monkeypatch):
    monkeypatch.setattr("saffron_quantizer.tensor_parallel.heads_of", lambda _config: None)
    reader = CheckpointReader(tiny_model("Llama"))
    require_cards(reader, make_plan(reader, CandidateSpec(method="RTN", scheme="W8A8")), 8)
    assert caplog.messages == ["It is not known of this architecture how many cards can share it."]
