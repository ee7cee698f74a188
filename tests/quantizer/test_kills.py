"""Every stage, killed with SIGKILL again and again, ends with the bytes of a run that nobody disturbed."""

import json
import random
import shutil

import pytest
from tinymodels.folders import content

KILLS = 4
"""Of each case: half of them before an operation on files, half at a moment; which ones, chance says, by a seed."""
W4A16 = ("--scheme", "w4a16", "--group-size", "32")
QUANTIZE = {
    "RTN to W4A16": ("--method", "rtn", *W4A16),
    "RTN to W8A8": ("--method", "rtn", "--scheme", "w8a8"),
    "GPTQ to W4A16": ("--method", "gptq", *W4A16),
    "GPTQ to W4A16 towards the original": ("--method", "gptq", *W4A16, "--target", "original"),
    "GPTQ to W8A8": ("--method", "gptq", "--scheme", "w8a8"),
    "AWQ to W4A16": ("--method", "awq", *W4A16),
    "SmoothQuant to W8A8": ("--method", "smoothquant", "--scheme", "w8a8"),
    "AWQ, then GPTQ, to GPTQ's format": ("--method", "gptq", *W4A16, "--smoothing", "awq", "--format", "gptq"),
    "RTN to static FP8 with an FP8 cache": ("--method", "rtn", "--scheme", "fp8static", "--kv-cache", "fp8"),
}
"""Each way to quantize, with and without calibration; a new one is a row."""
MODELS = {
    "Llama": {"num_hidden_layers": 5},
    "Gemma3Text": {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2},
}
CASES = [
    *(("Llama", stage, ()) for stage in ("sample", "baseline", "evaluate")),
    *(("Llama", "quantize", way) for way in QUANTIZE.values()),
    ("Llama", "quantize", (*QUANTIZE["GPTQ to W4A16"], "--activation-memory", "0")),
    ("Gemma3Text", "quantize", QUANTIZE["GPTQ to W4A16"]),
]

pytestmark = pytest.mark.timeout(600)


class World:
    """A model, a data set, and the command of each stage, whose inputs undisturbed runs have made."""

    def __init__(self, server, model, place):
        self.server, self.model, self.place = server, model, place
        self.data = place / "data.jsonl"
        chance = random.Random(1)  # noqa: S311 words are no secret
        lines = (" ".join(f"w{chance.randrange(7, 97)}" for _ in range(20)) for _ in range(60))
        self.data.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
        self.finish(self.sample(place / "sampled"))

    def run(self, argv, **kill):
        self.server.start(argv, **kill)
        return self.server.wait()

    def finish(self, argv):
        told = self.run(argv)
        assert told["status"] == 0, argv
        return told

    def command(self, stage, way, out):
        if stage == "evaluate" and not (self.place / "candidate").exists():
            self.finish(self.baseline(self.place / "baseline"))
            told = ("--out", self.place / "candidate")
            self.finish([*("quantize", "--model", self.model), *QUANTIZE["RTN to W8A8"], *told])
        return getattr(self, stage)(out, *way)

    def sample(self, out):
        sizes = ("--calibration-samples", 8, "--evaluation-samples", 32, "--max-tokens", 16)
        return ["sample", "--model", self.model, "--dataset", self.data, *sizes, "--out", out / "samples"]

    def baseline(self, out):
        data = ("--data", self.place / "sampled" / "samples" / "gate.jsonl")
        return ["baseline", "--model", self.model, *data, "--out", out / "hidden"]

    def quantize(self, out, *way):
        data = ("--calibration", self.place / "sampled" / "samples" / "calibration.jsonl")
        places = ("--store", out / "store", "--work", out / "work", "--hash-cache", out / "work" / "hashes.json")
        return ["quantize", "--model", self.model, *data, *way, *places]

    def evaluate(self, out):
        compared = ("--original", self.model, "--candidate", self.place / "candidate")
        data = ("--data", self.place / "sampled" / "samples" / "gate.jsonl")
        return [
            "evaluate",
            *compared,
            "--baseline",
            self.place / "baseline" / "hidden",
            *data,
            "--out",
            out / "it.json",
        ]


@pytest.fixture(scope="module")
def world(fork_server, tiny_model, speaking_model, tmp_path_factory):
    """Makes the world of an architecture, once."""
    made = {}

    def make(architecture):
        if architecture not in made:
            place = tmp_path_factory.mktemp(architecture)
            shutil.copytree(tiny_model(architecture, **MODELS[architecture]), place / "model")
            for file in (*speaking_model.glob("tokenizer*"), *speaking_model.glob("chat_template*")):
                shutil.copy(file, place / "model")
            made[architecture] = World(fork_server, place / "model", place)
        return made[architecture]

    return make


@pytest.mark.parametrize(("architecture", "stage", "way"), CASES, ids=[f"{a} {s} {' '.join(w)}" for a, s, w in CASES])
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(world, tmp_path, architecture, stage, way):
    here, whole, killed = world(architecture), tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    undisturbed = here.finish(here.command(stage, way, whole))
    argv = here.command(stage, way, killed)
    chance = random.Random(f"{architecture} {stage} {way}")  # noqa: S311 when to kill is no secret
    kills = 0
    while kills < KILLS:
        # Half the kills hit a chosen operation on files, the others a moment in between.
        if kills % 2:
            told = here.run(argv, seconds=chance.random() * undisturbed["seconds"])
        else:
            told = here.run(argv, operation=chance.randint(1, undisturbed["operations"]))
        assert told["status"] in {0, -9}
        kills += told["status"] == -9
        if told["status"] == 0:
            # What was left to do took less time than that; the next run begins anew.
            assert content(killed) == content(whole)
            shutil.rmtree(killed)
            killed.mkdir()
    here.finish(argv)
    assert content(killed) == content(whole)
