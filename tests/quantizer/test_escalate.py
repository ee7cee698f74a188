"""Raising what is sensitive: what a unit does alone, which units are raised, and how a killed run goes on."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tinymodels.checkpoints import checkpoint_of

from saffron_api.candidate import CandidateSpec, Scheme
from saffron_api.quantized_model import Gates
from saffron_quantizer import escalate as escalation
from saffron_quantizer.algorithms.rtn import rtn
from saffron_quantizer.checkpoint.manifest import read_manifest
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.data.sequences import TokenSequence
from saffron_quantizer.escalate import Selection
from saffron_quantizer.evaluation.divergence import Scored, compare_tokens
from saffron_quantizer.evaluation.hidden import scored_hidden
from saffron_quantizer.models.activations import ActivationMemory
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.plan import make_plan, with_precisions
from saffron_quantizer.precision import Precision
from saffron_quantizer.progress import ignore
from saffron_quantizer.quantize import write_rest
from saffron_quantizer.ranks import ALONE
from saffron_quantizer.sensitivity import Variant, damages, probes
from saffron_quantizer.shards import write_shards

INT4, INT8 = Precision(Scheme.W4A16, 32), Precision(Scheme.W8A8)
SABOTAGED = "model.layers.1.mlp.down_proj"


def conversations(count=32, length=20):
    generator = torch.Generator().manual_seed(5)
    rows = torch.randint(3, 97, (count, length), generator=generator).tolist()
    return [TokenSequence(tuple(row), (4, length), f"c{number}") for number, row in enumerate(rows)]


@pytest.fixture(scope="module")
def sabotaged(tiny_model, tmp_path_factory):
    """Makes a model with one linear that is hard to round: huge weights on inputs that are always 0.

    They change no output, but they stretch the scale of their group in int4, and of their row in int8.
    """

    def make(outlier):
        folder = tmp_path_factory.mktemp("sabotaged") / "model"
        shutil.copytree(tiny_model("Llama", dtype=torch.bfloat16), folder)
        tensors = load_file(folder / "model.safetensors")
        tensors["model.layers.1.mlp.up_proj.weight"][::32] = 0
        tensors[f"{SABOTAGED}.weight"][:, ::32] = outlier
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


def run(model, spec, out, gates):
    tokens = [torch.tensor(each.tokens) for each in conversations(8)]
    selection = Selection(conversations(), Gates.model_validate(gates))
    return checkpoint_of(model, spec, out, tokens, selection=selection)


def int4(method="RTN", most=0.9):
    return CandidateSpec(method=method, scheme="W4A16", group_size=32, escalate={"maxBytesRatio": most})


def int8(most=0.99):
    return CandidateSpec(method="RTN", scheme="W8A8", escalate={"maxBytesRatio": most})


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "manifest.json"}


RAISED = {
    # name: outlier, candidate, limit, what the one linear is raised from and to
    "from int4 to int8, which has steps that are fine enough": (5.0, int4(), 0.3, ("W4A16", "W8A8")),
    "by GPTQ, too": (5.0, int4("GPTQ"), 0.3, ("W4A16", "W8A8")),
    "from int8 to the original": (200.0, int8(), 0.02, ("W8A8", "original")),
}


@pytest.mark.parametrize("case", RAISED.values(), ids=RAISED)
def test_exactly_the_sabotaged_linear_is_raised(sabotaged, tmp_path, case):
    outlier, spec, limit, (before, after) = case
    result = run(sabotaged(outlier), spec, tmp_path / "out", {"klDivergence": {"max": limit}})
    manifest = read_manifest(tmp_path / "out")
    (raised,) = manifest["raised"]
    assert manifest["tensorParallel"] == {"W4A16": 2, "W8A8": 4}[before]
    assert (raised["unit"], raised["from"], raised["to"]) == (SABOTAGED, before, after)
    assert [(each["raises"], each["holds"]) for each in manifest["rounds"]] == [(0, False), (1, True)]
    assert manifest["rounds"][1]["bytes"] == manifest["rounds"][0]["bytes"] + raised["bytes"] == result.bytes
    assert result.bytes == CheckpointReader(tmp_path / "out").bytes
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    first, *rest = config["config_groups"].values()
    if after == "original":
        assert (config["ignore"], first["targets"], rest) == (["lm_head", SABOTAGED], ["Linear"], [])
    else:
        assert first["targets"] == [r"re:^model\.layers\.1\.mlp\.(down_proj)$"]
    assert not list((tmp_path / "out").glob(".*"))


def test_nothing_is_raised_and_one_round_made_where_the_limits_hold(sabotaged, tmp_path):
    plain = replace_escalation(int4())
    run(sabotaged(5.0), int4(), tmp_path / "out", {"klDivergence": {"max": 50.0}})
    manifest = read_manifest(tmp_path / "out")
    assert (manifest["raised"], len(manifest["rounds"])) == ([], 1)
    checkpoint_of(sabotaged(5.0), plain, tmp_path / "plain")
    assert content(tmp_path / "out") == content(tmp_path / "plain")


def replace_escalation(spec):
    return spec.model_copy(update={"escalate": None})


def test_the_bytes_are_never_exceeded_and_what_can_be_had_for_them_is_taken(sabotaged, tmp_path):
    model = sabotaged(5.0)
    original = CheckpointReader(model).bytes
    base = make_plan(CheckpointReader(model), replace_escalation(int4())).bytes
    # Room for the sabotaged linear in int8 (3,824 bytes more) and for no other.
    gates = {"klDivergence": {"max": 1e-6}, "checkpointBytesRatio": {"max": (base + 3900) / original}}
    result = run(model, int4(), tmp_path / "out", gates)
    manifest = read_manifest(tmp_path / "out")
    assert (result.bytes, [each["unit"] for each in manifest["raised"]]) == (base + 3824, [SABOTAGED])
    assert [(each["raises"], each["holds"]) for each in manifest["rounds"]] == [(0, False), (1, False)]


class KilledError(Exception):
    """Stands for a SIGKILL, which leaves the files as they are."""


def test_a_run_that_is_killed_again_and_again_goes_on_and_ends_with_the_same_bytes(sabotaged, tmp_path, monkeypatch):
    """Each start is cut off after seven files more."""
    model, gates = sabotaged(5.0), {"klDivergence": {"max": 0.3}}
    run(model, int4(), tmp_path / "undisturbed", gates)
    rename, allowed = type(tmp_path).rename, [0]

    def dying(path, target):
        if allowed[0] == 0:
            raise KilledError
        allowed[0] -= 1
        return rename(path, target)

    monkeypatch.setattr(type(tmp_path), "rename", dying)
    killed = 0
    while not (tmp_path / "out" / "manifest.json").exists():
        allowed[0] = 7
        try:
            run(model, int4(), tmp_path / "out", gates)
        except KilledError:
            killed += 1
    assert killed > 3
    assert content(tmp_path / "out") == content(tmp_path / "undisturbed")
    told, expected = read_manifest(tmp_path / "out"), read_manifest(tmp_path / "undisturbed")
    assert [told[key] for key in ("raised", "rounds", "layers")] == [
        expected[key] for key in ("raised", "rounds", "layers")
    ]


def test_other_limits_or_another_selection_set_are_another_request(sabotaged, tmp_path):
    model = sabotaged(5.0)
    requests = []
    for number, limit in enumerate((50.0, 60.0)):
        run(model, int4(), tmp_path / str(number), {"klDivergence": {"max": limit}})
        requests.append(read_manifest(tmp_path / str(number))["fingerprint"]["request"])
    one, other = requests
    assert {key for key in one if one[key] != other[key]} == {"gates"}
    assert len(one["selectionDigest"]) == 64


@pytest.mark.parametrize(("escalated", "given"), [(True, False), (False, True)])
def test_a_selection_belongs_to_a_candidate_that_is_escalated(tiny_model, tmp_path, escalated, given):
    spec = int8() if escalated else replace_escalation(int8())
    selection = Selection(conversations(), Gates.model_validate({"klDivergence": {"max": 1.0}})) if given else None
    with pytest.raises(ValueError, match="a selection belongs to a candidate that is escalated"):
        checkpoint_of(tiny_model(), spec, tmp_path / "out", selection=selection)


@pytest.mark.parametrize("parts", ["one walk", "a walk a copy"])
@pytest.mark.parametrize("architecture", ["Qwen2", "Gemma3Text"])
def test_the_damage_of_a_unit_is_the_divergence_of_a_checkpoint_with_only_that_unit_quantized(
    tiny_model, tmp_path, monkeypatch, architecture, parts
):
    if parts == "a walk a copy":
        monkeypatch.setattr("saffron_quantizer.sensitivity.STATES_BYTES", 1)
    reader = CheckpointReader(tiny_model(architecture))
    plan = make_plan(reader, CandidateSpec(method="RTN", scheme="W4A16", group_size=32))
    sequences = probes(conversations())
    stream = ModelStream.open(reader.folder)
    variants = [Variant(plan.units[0], INT4), Variant(plan.units[3], INT8), Variant(plan.units[6], INT4)]

    def quantized(weight, precision):
        W = reader.read(weight)
        return rtn(W, plan.grid_of(precision, W.dtype))

    found = damages(stream, variants, quantized, sequences, progress=ignore)
    for number, variant in enumerate(variants):
        folder = tmp_path / str(number)
        folder.mkdir()
        alone = with_precisions(plan, reader, dict.fromkeys(variant.unit.weights, variant.precision))
        write_shards(folder, reader, alone, stream, [], memory=ActivationMemory(), ranks=ALONE, progress=ignore)
        write_rest(folder, reader, alone)
        other = ModelStream.open(folder)
        states = [
            scored_hidden(each, sequences, activity="", not_finite=None, progress=ignore) for each in (stream, other)
        ]
        whole = compare_tokens(
            Scored(stream, states[0].states), Scored(other, states[1].states), states[0].targets, progress=ignore
        )
        # float32 rounding of sums over the vocabulary, in another order.
        assert found[number] == pytest.approx(whole.divergence.mean().item(), rel=1e-3, abs=1e-6)
        assert found[number] > 1e-5


PROBES = {
    "a short sequence as it is": ((10, (4, 10)), (10, (4, 10))),
    "few of many scored tokens": ((100, (20, 100)), (52, (20, 52))),
    "the first token and the end of a long prompt": ((500, (400, 500)), (128, (96, 128))),
}


@pytest.mark.parametrize(("given", "expected"), PROBES.values(), ids=PROBES)
def test_a_probe_is_a_window_before_the_first_scored_tokens(given, expected):
    length, score = given
    (probe,) = probes([TokenSequence(tuple(range(1, length + 1)), score, "c")])
    assert (len(probe.tokens), probe.score) == expected
    end = score[0] + probe.scored
    assert probe.tokens == (1, *range(end - len(probe.tokens) + 2, end + 1))


def test_probes_are_of_the_first_few_conversations_one_each():
    lines = [each for one in conversations(20) for each in (one, replace(one, tokens=one.tokens[::-1]))]
    assert probes(lines) == conversations(20)[:8]


def test_smoothed_weights_are_not_put_into_the_original_to_see_what_they_do(tiny_model, tmp_path):
    reader = CheckpointReader(tiny_model())
    plan = make_plan(reader, CandidateSpec(method="GPTQ", scheme="W8A8"))
    stream = ModelStream.open(reader.folder)
    write_shards(
        tmp_path, reader, plan, stream, [torch.arange(3, 60)], memory=ActivationMemory(), ranks=ALONE, progress=ignore
    )
    write_rest(tmp_path, reader, plan)
    weight = "model.layers.0.self_attn.q_proj.weight"
    W = reader.read(weight)
    rounded = rtn(W, plan.grid_of(INT8, W.dtype))
    smoothed = replace(plan, spec=plan.spec.model_copy(update={"smoothing": "SmoothQuant"}))
    own = escalation._codes(reader, tmp_path, plan)(weight, INT8)
    standing_in = escalation._codes(reader, tmp_path, smoothed)(weight, INT8)
    assert not torch.equal(own.codes, rounded.codes)
    assert torch.equal(standing_in.codes, rounded.codes)
