"""What changes which key: the whole of what starts work, and what does not."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from saffron_api.generate import REPOSITORY
from saffron_api.keys import bound_confidence, digest, evaluate_key, inspect_key, quantize_key, sample_key
from saffron_api.quantized_model import QuantizedModelSpec

SPEC = yaml.safe_load((REPOSITORY / "examples/canary.yaml").read_text(encoding="utf-8"))["spec"]
MODEL_DIGEST = "0" * 64
STAGES = ("inspect", "sample", "quantize", "evaluate")


def keys(spec: dict[str, Any], model_digest: str = MODEL_DIGEST) -> dict[str, Any]:
    """Every key of a request; those of quantize and evaluate in the candidates' order."""
    read = QuantizedModelSpec.model_validate(spec)
    sample = sample_key(
        model_digest=model_digest,
        data=read.data,
        calibration=read.calibration,
        evaluation=read.evaluation,
        run_id=read.run_id,
    )
    quantize = [quantize_key(sample_key=sample, candidate=candidate, gates=read.gates) for candidate in read.candidates]
    level = bound_confidence(read.gates.confidence, len(read.candidates))
    return {
        "inspect": inspect_key(model_uri=read.model.uri, candidates=read.candidates, run_id=read.run_id),
        "sample": sample,
        "quantize": quantize,
        "evaluate": [evaluate_key(quantize_key=key, confidence=level) for key in quantize],
    }


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change that sets one field of the spec."""

    def change(spec: dict[str, Any]) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        place: Any = spec
        for part in parents:
            place = place[part] if isinstance(place, list) else place.setdefault(part, {})
        place[last] = value

    return change


def reverse_redact(spec: dict[str, Any]) -> None:
    spec["data"]["redact"].reverse()


def leave_group_size_out(spec: dict[str, Any]) -> None:
    for candidate in spec["candidates"]:
        candidate.pop("groupSize", None)


def add_candidate(spec: dict[str, Any]) -> None:
    spec["candidates"].append({"name": "more", "method": "GPTQ", "scheme": "W8A8"})


CHANGES = {
    "another model folder is inspected; its digest decides the rest": (put("model/uri", "pvc://models/b"), {"inspect"}),
    "another run id does everything again": (put("runId", "2"), set(STAGES)),
    "other data are sampled again": (
        put("data/source/dataset/uri", "pvc://models/b.jsonl"),
        {"sample", "quantize", "evaluate"},
    ),
    "another seed samples again": (put("data/seed", 1), {"sample", "quantize", "evaluate"}),
    "another length samples again": (put("data/maxTokens", 256), {"sample", "quantize", "evaluate"}),
    "another redaction samples again": (put("data/redact", ["ip"]), {"sample", "quantize", "evaluate"}),
    "more calibration samples again": (put("calibration/samples", 65), {"sample", "quantize", "evaluate"}),
    "more evaluation samples again": (put("evaluation/samples", 61), {"sample", "quantize", "evaluate"}),
    "another method quantizes again": (put("candidates/0/method", "GPTQ"), {"inspect", "quantize", "evaluate"}),
    "another group size quantizes again": (put("candidates/0/groupSize", 32), {"inspect", "quantize", "evaluate"}),
    "another confidence only evaluates again": (put("gates/confidence", 0.9), {"evaluate"}),
    "another name is inspected again, since sizes are by name": (put("candidates/0/name", "b"), {"inspect"}),
    "the order of redact is no difference": (reverse_redact, set()),
    "a default spelled out is no difference": (leave_group_size_out, set()),
    "a candidate's Job is in no key": (put("candidates/1/job", {"runtimeClassName": "nvidia"}), set()),
    "a limit is in no key": (put("gates/perplexityRatio/max", 1.2), set()),
    "a gate more is in no key": (put("gates/klDivergence", {"max": 0.1}), set()),
    "the selection is in no key": (put("selection", "BestQuality"), set()),
    "the roll-out is in no key": (put("rollout/steps", [{"weight": 1}]), set()),
    "Jobs are in no key": (put("job/parallelism", 4), set()),
    "suspension is in no key": (put("suspend", True), set()),
    "the claims of the results are in no key": (put("storage/checkpoints/claimName", "b"), set()),
}


@pytest.mark.parametrize(("change", "changed"), CHANGES.values(), ids=CHANGES.keys())
def test_a_change_changes_exactly_these_keys(change: Callable[[dict[str, Any]], None], changed: set[str]) -> None:
    other = copy.deepcopy(SPEC)
    change(other)
    before, after = keys(SPEC), keys(other)
    assert {stage for stage in STAGES if before[stage] != after[stage]} == changed


def test_only_a_candidate_that_is_escalated_is_made_again_for_another_limit() -> None:
    one = copy.deepcopy(SPEC)
    put("candidates/1/escalate", {"maxBytesRatio": 0.9})(one)
    other = copy.deepcopy(one)
    put("gates/perplexityRatio/max", 1.2)(other)
    before, after = keys(one), keys(other)
    for stage in ("quantize", "evaluate"):
        assert [old == new for old, new in zip(before[stage], after[stage], strict=True)] == [True, False, True]
    assert (before["inspect"], before["sample"]) == (after["inspect"], after["sample"])


def test_another_model_samples_again() -> None:
    before, after = keys(SPEC), keys(SPEC, "1" * 64)
    assert {stage for stage in STAGES if before[stage] != after[stage]} == {"sample", "quantize", "evaluate"}


def test_one_changed_candidate_leaves_the_others_checkpoints_alone() -> None:
    other = copy.deepcopy(SPEC)
    put("candidates/1/groupSize", 32)(other)
    before, after = keys(SPEC)["quantize"], keys(other)["quantize"]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]


def test_one_candidate_more_evaluates_all_again_at_a_stricter_level_and_quantizes_only_itself() -> None:
    other = copy.deepcopy(SPEC)
    add_candidate(other)
    before, after = keys(SPEC), keys(other)
    assert after["quantize"][:3] == before["quantize"]
    assert set(after["evaluate"]) & set(before["evaluate"]) == set()


def test_two_names_of_one_recipe_share_a_key() -> None:
    other = copy.deepcopy(SPEC)
    other["candidates"] = [{"name": name, "method": "GPTQ", "scheme": "W4A16"} for name in ("a", "b")]
    one, two = keys(other)["quantize"]
    assert one == two


def test_a_digest_is_known_and_does_not_depend_on_the_order_of_fields() -> None:
    # printf '{"a":[1,2],"b":"é"}' | sha256sum
    expected = "d902c5ef87c42c33059e8d7b7aa30485809a5c0ff84b8d0d285616d5b03f23ea"
    assert digest({"b": "é", "a": [1, 2]}) == digest({"a": [1, 2], "b": "é"}) == expected


@given(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=4))
def test_a_digest_is_64_hex_digits_and_two_values_share_it_only_if_equal(value: dict[str, Any]) -> None:
    assert len(bytes.fromhex(digest(value))) == 32
    assert digest(value | {"more": 1}) != digest(value) or value.get("more") == 1


def test_a_value_that_json_has_no_word_for_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"a": float("nan")})


LEVELS = {1: 0.95, 2: 0.975, 5: 0.99}


@pytest.mark.parametrize(("candidates", "level"), LEVELS.items())
def test_the_level_of_each_bound_is_bonferronis(candidates: int, level: float) -> None:
    assert bound_confidence(0.95, candidates) == pytest.approx(level, abs=1e-12)
