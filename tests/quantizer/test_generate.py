"""Generated text: the whole model with its cache against the walk through its blocks, and what the command prints."""

import json

import pytest
import tokenizers
import torch
import transformers
from tinymodels.checkpoints import checkpoint_of
from tinymodels.configs import SPECIAL

from saffron_api.candidate import CandidateSpec
from saffron_api.failures import Failure, FailureReason, StageError
from saffron_quantizer.cli.main import main
from saffron_quantizer.data.tokenizer import Tokenizer
from saffron_quantizer.generate import GrowingText, Sampling, complete, generate
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.models.whole import WholeModel
from saffron_quantizer.progress import ignore

CPU = torch.device("cpu")
PROMPT = (1, 5, 9, 80, 33, 7, 11, 50, 4, 61)
SPECS = {
    "W4A16": CandidateSpec(method="RTN", scheme="W4A16", group_size=32),
    "W4A16 of AutoAWQ": CandidateSpec(method="RTN", scheme="W4A16", group_size=32, format="AutoAWQ", symmetric=False),
    "W4A16 of GPTQ": CandidateSpec(method="RTN", scheme="W4A16", group_size=32, format="GPTQ"),
    "W8A16": CandidateSpec(method="RTN", scheme="W8A16"),
    "W8A8": CandidateSpec(method="RTN", scheme="W8A8"),
    "FP8": CandidateSpec(method="RTN", scheme="FP8"),
    "FP8Static": CandidateSpec(method="RTN", scheme="FP8Static"),
    "an FP8 cache": CandidateSpec(method="RTN", scheme="W8A8", kv_cache="FP8"),
}


def made(model, spec, out):
    checkpoint_of(model, spec, out)
    return out


def check_against_the_walk(folder):
    """Each token, and its gap, is what the walk through the blocks says of all tokens before it."""
    model = WholeModel.open(folder, CPU)
    model.stop_tokens = frozenset()
    # Both together are more than any window of a tiny model.
    steps = list(generate(model, PROMPT, Sampling(12)))
    stream = ModelStream.open(folder)
    (hidden,) = stream.final_hidden([torch.tensor([*PROMPT, *(step.token for step in steps[:-1])])])
    logits = stream.logits(hidden)[len(PROMPT) - 1 :]
    largest, second = logits.topk(2).values.T
    assert [step.token for step in steps] == logits.argmax(dim=1).tolist()
    # Float32 in another order, which may tip what is rounded to the next number on one side. Logits are spread over
    # several units, and those of another token would be off by whole ones.
    torch.testing.assert_close(torch.tensor([step.gap for step in steps]), largest - second, rtol=0, atol=0.05)


@pytest.mark.parametrize("architecture", SPECIAL)
def test_each_token_of_any_architecture_is_the_one_that_the_walk_gives(architecture, tiny_model, tmp_path):
    check_against_the_walk(made(tiny_model(architecture), SPECS["W4A16"], tmp_path / "checkpoint"))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_each_token_of_any_scheme_is_the_one_that_the_walk_gives(spec, tiny_model, tmp_path):
    check_against_the_walk(made(tiny_model("Gemma3Text"), spec, tmp_path / "checkpoint"))


def test_an_original_is_generated_from_as_it_is(tiny_model):
    check_against_the_walk(tiny_model("Llama"))


def test_int4_weights_stay_packed_in_memory(tiny_model, tmp_path):
    # The kernel wants whole blocks of 128 columns, and has zeros where they are not.
    fields = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    original = tiny_model("Llama", **fields)
    packed = WholeModel.open(made(original, SPECS["W4A16"], tmp_path / "checkpoint"), CPU)
    linears = 2 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 512 * 256)
    # Four bytes become half a byte, and four for the scale of 32.
    assert WholeModel.open(original, CPU).bytes - packed.bytes == linears * (4 - 1 / 2 - 4 / 32)


@pytest.fixture(scope="module")
def model(speaking_model):
    return WholeModel.open(speaking_model, CPU)


def test_a_text_ends_with_the_first_stop_token_which_is_no_part_of_it(model, speaking_model, monkeypatch):
    tokenizer = Tokenizer(speaking_model)
    free = complete(model, tokenizer, PROMPT, Sampling(8), ignore)
    tokens = [step.token for step in free.steps]
    stop = next(number for number in range(1, 8) if tokens[number] not in tokens[:number])
    monkeypatch.setattr(model, "stop_tokens", frozenset([tokens[stop]]))
    heard = []
    stopped = complete(model, tokenizer, PROMPT, Sampling(8), heard.append)
    assert [step.token for step in stopped.steps] == tokens[: stop + 1]
    assert [step.stops for step in stopped.steps] == [False] * stop + [True]
    assert stopped.text == "".join(heard)
    assert stopped.text.split() == [f"w{token}" for token in tokens[:stop]]


STOPS = {
    "config.json alone": (None, {2}),
    "one token": ({"eos_token_id": 7}, {7}),
    "several": ({"eos_token_id": [1, 106]}, {1, 106}),
    "none": ({"eos_token_id": None}, set()),
}


@pytest.mark.parametrize(("generation", "expected"), STOPS.values(), ids=STOPS)
def test_stop_tokens_are_those_of(generation, expected, speaking_model, tmp_path):
    for file in speaking_model.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert WholeModel.open(tmp_path, CPU).stop_tokens == expected


def test_a_seed_draws_the_same_tokens_again_and_another_one_others(model):
    def drawn(seed):
        return [step.token for step in generate(model, PROMPT, Sampling(12, temperature=3.0, seed=seed))]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_draws_follow_the_probabilities(model):
    logits = model.next_logits(PROMPT, model.new_cache())
    share = torch.softmax(logits / 2, dim=0).max().item()
    drawn = [next(generate(model, PROMPT, Sampling(1, temperature=2.0, seed=seed))).token for seed in range(200)]
    found = drawn.count(int(logits.argmax())) / 200
    # Four standard deviations of a share of 200 draws; seeds are fixed.
    assert abs(found - share) < 4 * (share * (1 - share) / 200) ** 0.5


def test_a_temperature_too_small_for_a_float32_draws_the_most_likely_token(model):
    likely = next(generate(model, PROMPT, Sampling(1))).token
    assert next(generate(model, PROMPT, Sampling(1, temperature=1e-320))).token == likely


REFUSED = {
    "no token": ((), 8, "prompt=(none)"),
    "too many": (PROMPT, 119, "tokens=129(max_position_embeddings=128)"),
}


@pytest.mark.parametrize(("prompt", "new", "subject"), REFUSED.values(), ids=REFUSED)
def test_a_prompt_is_refused_that_has(prompt, new, subject, model):
    with pytest.raises(StageError) as caught:
        next(generate(model, prompt, Sampling(new)))
    assert (caught.value.failure.reason, caught.value.failure.subject) == (FailureReason.SPEC_INVALID, subject)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("logit", [float("nan"), float("inf")])
def test_a_model_whose_logits_are_no_numbers_gives_no_text(logit, temperature, model, monkeypatch):
    monkeypatch.setattr(WholeModel, "next_logits", lambda *_: torch.tensor([0.0, logit, 1.0]))
    with pytest.raises(StageError) as caught:
        next(generate(model, PROMPT, Sampling(3, temperature)))
    assert caught.value.failure == Failure(reason=FailureReason.FIGURES_NOT_FINITE, subject="largest_logit")


def test_characters_come_out_whole_and_spaces_as_the_text_has_them(tmp_path):
    # Every byte is a token.
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    ours = Tokenizer(tmp_path)
    prompt, text = "Tea, ", "or café, 茶?"
    growing = GrowingText(ours, tokenizer.encode(prompt).ids)
    pieces = [growing.add(token) for token in tokenizer.encode(text).ids]
    assert [piece for piece in pieces if piece] == list(text)
    growing.add(tokenizer.encode("茶").ids[0])
    assert growing.end() == "\ufffd"
    assert growing.text == text + "\ufffd"


def run(*argv):
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in ("generate", *argv)])
    return caught.value.code


@pytest.fixture(autouse=True)
def _no_signal_thread(monkeypatch):
    monkeypatch.setattr("saffron_quantizer.cli.main.end_at_sigterm", lambda: None)


def test_the_command_prints_the_text_and_tells_its_speed(speaking_model, capsys):
    assert run("--model", speaking_model, "--prompt", "w9 w12", "--max-new-tokens", "5") == 0
    printed = capsys.readouterr()
    assert len(printed.out.split()) <= 5
    assert all(word.startswith("w") for word in printed.out.split())
    assert "computing in torch.float32 on cpu" in printed.err
    assert "3 tokens of prompt in" in printed.err


def test_the_command_takes_prompts_of_all_kinds_and_prints_a_line_of_json_for_each(speaking_model, tmp_path, capsys):
    lines = [{"text": "w9 w12"}, {"messages": [{"role": "user", "content": "w9 w12"}]}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = ("--max-new-tokens", "5", "--json", "--prompts", tmp_path / "prompts.jsonl")
    assert run("--model", speaking_model, "--prompt", "w9 w12", *options) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    model = WholeModel.open(speaking_model, CPU)
    expected = [list(generate(model, prompt, Sampling(5))) for prompt in ((1, 9, 12), (1, 9, 12), (1, 4, 9, 12, 6))]
    assert [each["tokens"] for each in found] == [[step.token for step in steps] for steps in expected]
    assert [each["gaps"] for each in found] == [[round(step.gap, 4) for step in steps] for steps in expected]
    assert [each["promptTokens"] for each in found] == [3, 3, 5]
    assert {each["ended"] for each in found} <= {"StopToken", "MaxNewTokens"}
    assert run("--model", speaking_model, "--prompt", "w9 w12", "--chat", *options[:3]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == found[2]["tokens"]


FAILS = {
    "no folder": (["--model", "/no/model", "--prompt", "a"], 12, "There is no model at /no/model"),
    "no prompt": (["--model", "/no/model"], 2, "one of --prompt and --prompts is needed"),
    "a GPU where there is none": (
        ["--model", "m", "--prompt", "a", "--device", "cuda"],
        16,
        "There is no GPU here that can be used (no-GPU-found)",
    ),
    "a temperature below 0": (["--model", "m", "--temperature", "-1"], 2, "'-1' is not a number from 0"),
}


@pytest.mark.parametrize(("argv", "code", "words"), FAILS.values(), ids=FAILS)
def test_the_command_refuses(argv, code, words, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run(*argv) == code
    assert words in capsys.readouterr().err


BROKEN = {
    "without weights": ("model.safetensors", None, "The model lacks model.safetensors"),
    "without a tokenizer": ("tokenizer.json", None, "The model lacks tokenizer.json"),
    "with half a generation config": (
        "generation_config.json",
        "{",
        "The model's generation_config.json can't be read",
    ),
    "with weights that are none": ("model.safetensors", "no weights", "The model's model.safetensors can't be read"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_the_command_says_what_is_wrong_with_a_folder(case, speaking_model, tmp_path, capsys):
    name, content, words = BROKEN[case]
    for file in speaking_model.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / name).write_text(content)
    assert run("--model", tmp_path, "--prompt", "w9") == 12
    assert words in capsys.readouterr().err
