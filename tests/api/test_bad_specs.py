"""Bad requests: the real API server and the command line's check refuse each, with the same field and words."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from saffron_api.generate import REPOSITORY

Refusals = Callable[[dict[str, Any]], list[str]]

GOOD = yaml.safe_load((REPOSITORY / "examples/canary.yaml").read_text(encoding="utf-8"))


class Gone:
    """Stands for a field that is taken away."""


@dataclass(frozen=True)
class Bad:
    """One change to a good request, and what must be said of it.

    Attributes:
        at: the field that is changed, with list positions as numbers.
        value: what is put there, or Gone.
        says: what every message must contain; it tells what is allowed.
        field: the field that the message must name, where that is not `at`.
    """

    at: str
    value: Any
    says: tuple[str, ...]
    field: str | None = None

    @property
    def blamed(self) -> str:
        return self.field or _shown(self.at)

    def request(self) -> dict[str, Any]:
        """The bad request as a whole."""
        request: dict[str, Any] = copy.deepcopy(GOOD)
        *parents, last = [int(part) if part.isdigit() else part for part in self.at.split("/")]
        place: Any = request
        for part in parents:
            place = place[part] if isinstance(place, list) else place.setdefault(part, {})
        if self.value is Gone:
            del place[last]
        else:
            place[last] = self.value
        return request


def _shown(at: str) -> str:
    return "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in at.split("/")).removeprefix(".")


STEP, RUN = "spec/rollout/steps", "spec/job"
CANDIDATE = {"name": "x", "method": "RTN", "scheme": "W8A8"}
GPTQ = {"name": "x", "method": "GPTQ", "scheme": "W4A16"}
PATH_LETTERS = (
    "letters a to z and A to Z, digits, '.', '_', '-' and '/', with no segment that is empty or starts with a dot"
)
PATH_WORDS = ("pvc://CLAIM/PATH", PATH_LETTERS)
PAUSE_WORDS = ("a duration such as 30s, 10m or 1h30m, from 1s to 168h",)
CLAIM_WORDS = ("must be another claim", "must not see samples")

TABLE = {
    "an unknown method is told those that there are": Bad("spec/candidates/0/method", "NF4", ("RTN", "GPTQ")),
    "an unknown scheme is told those that there are": Bad("spec/candidates/0/scheme", "W2A16", ("W4A16", "W8A8")),
    "a method in another case is not the method": Bad("spec/candidates/0/method", "gptq", ("RTN", "GPTQ")),
    "a group size that no kernel takes": Bad("spec/candidates/0/groupSize", 48, ("must be one of 32, 64, 128",)),
    "a group size without groups": Bad(
        "spec/candidates/2/groupSize", 128, ("only W4A16 has groups", "leave groupSize out")
    ),
    "a scheme that the method does not make": Bad(
        "spec/candidates/0", GPTQ | {"scheme": "FP8"}, ("GPTQ makes W4A16, W8A16 or W8A8",), "spec.candidates[0].scheme"
    ),
    "zero points where no engine takes them": Bad("spec/candidates/0/symmetric", False, ("with format AutoAWQ only",)),
    "a format for 4 bits with 8": Bad("spec/candidates/2/format", "GPTQ", ("only W4A16 can be laid out as",)),
    "a format that nobody reads": Bad("spec/candidates/0/format", "GGUF", ("CompressedTensors", "AutoAWQ")),
    "an order of columns without GPTQ": Bad("spec/candidates/0/actOrder", "Static", ("only GPTQ has an order",)),
    "an order of columns that engines dropped": Bad(
        "spec/candidates/0", GPTQ | {"actOrder": "Dynamic"}, ("Auto", "Static"), "spec.candidates[0].actOrder"
    ),
    "a target with a smoothing": Bad(
        "spec/candidates/0",
        GPTQ | {"smoothing": "AWQ", "target": "Original"},
        ("only GPTQ without smoothing has a target",),
        "spec.candidates[0].target",
    ),
    "a scale search in floating point": Bad(
        "spec/candidates/0",
        {"name": "x", "method": "RTN", "scheme": "FP8", "scaleSearch": "MSE"},
        ("leave scaleSearch out",),
        "spec.candidates[0].scaleSearch",
    ),
    "a smoothing for another scheme": Bad(
        "spec/candidates/0",
        GPTQ | {"smoothing": "SmoothQuant"},
        ("AWQ to W4A16 and SmoothQuant to W8A8",),
        "spec.candidates[0].smoothing",
    ),
    "a smoothing before rounding": Bad("spec/candidates/0/smoothing", "AWQ", ("comes before GPTQ only",)),
    "a cache in a format without its scales": Bad(
        "spec/candidates/0",
        GPTQ | {"format": "GPTQ", "kvCache": "FP8"},
        ("only format CompressedTensors stores",),
        "spec.candidates[0].kvCache",
    ),
    "an escalation that has nowhere to go": Bad(
        "spec/candidates/0",
        {"name": "x", "method": "RTN", "scheme": "FP8", "escalate": {"maxBytesRatio": 0.6}},
        ("leave escalate out",),
        "spec.candidates[0].escalate",
    ),
    "an escalation beyond the original": Bad(
        "spec/candidates/0/escalate/maxBytesRatio", 1.5, ("above 0 and at most 1",)
    ),
    "a module's name with a slash": Bad("spec/candidates/0/ignore", ["a/b"], ("",), "spec.candidates[0].ignore[0]"),
    "two candidates of one name": Bad("spec/candidates/1/name", "rtn-int4", ("Duplicate value",), "spec.candidates[1]"),
    "a candidate's name too long for a Job's": Bad("spec/candidates/0/name", "a-name-too-long", ("14",)),
    "a candidate's name in capitals": Bad(
        "spec/candidates/0/name", "Int4", ("at most 14 lower-case letters, digits and '-'",)
    ),
    "a candidate without a name": Bad("spec/candidates/0/name", Gone, ("Required value",)),
    "no candidate": Bad("spec/candidates", [], ("at least 1 item",)),
    "too many candidates": Bad(
        "spec/candidates", [CANDIDATE | {"name": f"c{n}"} for n in range(17)], ("at most 16 items",)
    ),
    "no gate": Bad("spec/gates", {"confidence": 0.9}, ("at least one of perplexityRatio, klDivergence",)),
    "a perplexity that must fall": Bad("spec/gates/perplexityRatio/max", 0.9, ("must be 1 to 100",)),
    "a divergence that only the original has": Bad("spec/gates/klDivergence/max", 0, ("above 0 and at most 100 nats",)),
    "an agreement above all tokens": Bad("spec/gates/topTokenAgreement/min", 1.5, ("above 0 and at most 1",)),
    "an agreement that nothing can miss": Bad("spec/gates/topTokenAgreement/min", 0, ("above 0 and at most 1",)),
    "a checkpoint larger than the original": Bad(
        "spec/gates/checkpointBytesRatio/max", 1.2, ("above 0 and at most 1",)
    ),
    "a gate without its limit": Bad(
        "spec/gates/perplexityRatio", {}, ("Required value",), "spec.gates.perplexityRatio.max"
    ),
    "a confidence that says little": Bad("spec/gates/confidence", 0.5, ("must be 0.8 to 0.999",)),
    "a confidence that no data give": Bad("spec/gates/confidence", 1, ("must be 0.8 to 0.999",)),
    "a limit that is text": Bad("spec/gates/perplexityRatio/max", "1.05", ("number",)),
    "steps that fall": Bad(STEP, [{"weight": 50}, {"weight": 10}], ("above the one before it",)),
    "steps that stand still": Bad(STEP, [{"weight": 50}, {"weight": 50}], ("above the one before it",)),
    "no step": Bad(STEP, [], ("at least 1 item",)),
    "a step with no traffic": Bad(f"{STEP}/0/weight", 0, ("greater than or equal to 1",)),
    "a step with all traffic": Bad(f"{STEP}/1/weight", 100, ("less than or equal to 99",)),
    "a pause in words": Bad(f"{STEP}/0/pause", "10 minutes", PAUSE_WORDS),
    "a pause without a unit": Bad(f"{STEP}/0/pause", "600", PAUSE_WORDS),
    "a pause of nothing": Bad(f"{STEP}/0/pause", "0s", PAUSE_WORDS),
    "a pause of weeks": Bad(f"{STEP}/0/pause", "168h1s", PAUSE_WORDS),
    "an approval that is none": Bad(f"{STEP}/1/approval", "Optional", ("Required",)),
    "samples where the servers can read them": Bad("spec/storage/workspace/claimName", "checkpoints", CLAIM_WORDS),
    "samples beside the model": Bad("spec/storage/workspace/claimName", "models", CLAIM_WORDS),
    "no workspace": Bad("spec/storage/workspace", Gone, ("Required value",)),
    "a claim that is no name": Bad("spec/storage/checkpoints/claimName", "My Claim", ("lower-case letters, digits",)),
    "a folder that starts at the root": Bad(
        "spec/storage/checkpoints/path", "/saffron", ("must be a relative path such as a/b",)
    ),
    "a folder that goes up": Bad("spec/storage/checkpoints/path", "a/../b", ("must be a relative path such as a/b",)),
    "a folder with letters of another alphabet": Bad("spec/storage/checkpoints/path", "saffrón", (PATH_LETTERS,)),
    "a model from the internet": Bad("spec/model/uri", "hf://google/gemma-3-270m", PATH_WORDS),
    "a model that goes up": Bad("spec/model/uri", "pvc://models/../secrets", PATH_WORDS),
    "a model with an empty segment": Bad("spec/model/uri", "pvc://models//gemma", PATH_WORDS),
    "a model with no path": Bad("spec/model/uri", "pvc://models", PATH_WORDS),
    "a model with letters of another alphabet": Bad("spec/model/uri", "pvc://models/模型/gemma", PATH_WORDS),
    "a model on a claim in capitals": Bad(
        "spec/model/uri", "pvc://Models/gemma", ("at most 63 lower-case letters, digits, '-' and '.'",)
    ),
    "a data set with an accent": Bad("spec/data/source/dataset/uri", "pvc://data/données.jsonl", PATH_WORDS),
    "a data set with a space": Bad("spec/data/source/dataset/uri", "pvc://data/my prompts.jsonl", PATH_WORDS),
    "a model with a line break": Bad("spec/model/uri", "pvc://models/gemma\n", PATH_WORDS),
    "a data set with a dot segment": Bad("spec/data/source/dataset/uri", "pvc://data/./prompts.jsonl", PATH_WORDS),
    "no source of data": Bad("spec/data/source", {}, ("Required value",), "spec.data.source.dataset"),
    "conversations cut to nothing": Bad("spec/data/maxTokens", 4, ("greater than or equal to 16",)),
    "an unknown thing to redact": Bad(
        "spec/data/redact", ["name"], ("email", "phone", "card", "ip"), "spec.data.redact[0]"
    ),
    "a thing to redact twice": Bad("spec/data/redact", ["ip", "ip"], ("Duplicate value",), "spec.data.redact[1]"),
    "a negative seed": Bad("spec/data/seed", -1, ("greater than or equal to 0",)),
    "a gate set too small for any verdict": Bad("spec/evaluation/samples", 10, ("greater than or equal to 30",)),
    "a number that is text": Bad("spec/calibration/samples", "512", ("integer",)),
    "a target that can't be rolled out to": Bad("spec/rollout/targetRef/kind", "StatefulSet", ("Deployment",)),
    "a target without its container": Bad("spec/rollout/targetRef/container", Gone, ("Required value",)),
    "a selection of no known kind": Bad("spec/selection", "Fastest", ("Smallest", "BestQuality")),
    "no Job at a time": Bad(f"{RUN}/parallelism", 0, ("greater than or equal to 1",)),
    "nobody to quantize": Bad(f"{RUN}/quantizeProcesses", 0, ("greater than or equal to 1",)),
    "a deadline that no Job can keep": Bad(f"{RUN}/activeDeadlineSeconds", 5, ("greater than or equal to 60",)),
    "an amount in words": Bad(
        f"{RUN}/podTemplate/resources/limits/memory", "lots", ("a Kubernetes quantity such as 2, 500m or 16Gi",)
    ),
    "a negative amount": Bad(
        f"{RUN}/podTemplate/resources/limits/cpu", -1, ("a Kubernetes quantity such as 2, 500m or 16Gi",)
    ),
    "a toleration of every value of one": Bad(
        f"{RUN}/podTemplate/tolerations",
        [{"key": "gpu", "operator": "Exists", "value": "yes"}],
        ("leave value out with operator Exists",),
        "spec.job.podTemplate.tolerations[0].value",
    ),
    "a toleration of nothing": Bad(
        f"{RUN}/podTemplate/tolerations",
        [{"effect": "NoSchedule"}],
        ("must be Exists where there is no key",),
        "spec.job.podTemplate.tolerations[0].operator",
    ),
    "a run's id with a space": Bad("spec/runId", "run 2", ("must be letters, digits, '.', '_' and '-', or empty",)),
    "a switch that is text": Bad("spec/suspend", "yes", ("boolean",)),
    "a name too long for a Job's": Bad("metadata/name", "a" * 31, ("at most 30 lower-case letters, digits and '-'",)),
    "a name with a dot": Bad("metadata/name", "gemma.270m", ("at most 30 lower-case letters, digits and '-'",)),
    "no spec": Bad("spec", Gone, ("Required value",)),
}
"""Requests that break one rule each."""

UNKNOWN = {
    "a stage that does not exist yet": "spec/watch",
    "a way out of the namespace": "spec/model/namespace",
    "traffic as a source, which does not exist yet": "spec/data/source/traffic",
    "an image of the author's": "spec/job/podTemplate/image",
    "an identity of the author's": "spec/job/podTemplate/serviceAccountName",
    "a candidate's field that does not exist yet": "spec/candidates/0/blockSize",
    "a misspelled gate": "spec/gates/perplexityratio",
    "an analysis that does not exist yet": "spec/rollout/analysis",
}
"""Fields that are not there."""


def naming(refusals: list[str], field: str) -> str:
    """The refusal of a field; all of them where none names it, so that a failed test shows them."""
    return next((text for text in refusals if text.startswith(f"{field}: ")), "; ".join(refusals))


@pytest.mark.parametrize("bad", TABLE.values(), ids=TABLE.keys())
def test_the_command_line_refuses(bad: Bad, refused_by_command_line: Refusals) -> None:
    said = naming(refused_by_command_line(bad.request()), bad.blamed)
    assert said.startswith(f"{bad.blamed}: ")
    assert [words for words in bad.says if words not in said] == [], said


@pytest.mark.parametrize("bad", TABLE.values(), ids=TABLE.keys())
def test_the_api_server_refuses(bad: Bad, refused_by_server: Refusals) -> None:
    said = naming(refused_by_server(bad.request()), bad.blamed)
    assert said.startswith(f"{bad.blamed}: ")
    assert [words for words in bad.says if words not in said] == [], said


@pytest.mark.parametrize("at", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_a_field_that_does_not_exist_is_refused_by_name(
    at: str, refused_by_command_line: Refusals, refused_by_server: Refusals
) -> None:
    request = Bad(at, {}, ()).request()
    assert refused_by_command_line(request) == [f"{_shown(at)}: unknown field"]
    assert f'unknown field "{_shown(at)}"' in "; ".join(refused_by_server(request))
