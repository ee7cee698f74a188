"""The command line as it is typed: help explains every option, and a wrong one is refused with what is allowed."""

import argparse
import io
from importlib.metadata import version

import pytest

from saffron_quantizer.cli.main import build_parser, main
from saffron_quantizer.cli.progress import PlainLines, duration
from saffron_quantizer.cli.text import rows
from saffron_quantizer.progress import Progress
from saffron_quantizer.readable import size

QUANTIZE = ["quantize", "--model", "m", "--out", "o"]
EVALUATE = ["evaluate", "--original", "m", "--candidate", "c", "--data", "d"]

ESCALATED = [
    *["quantize", "--model", "m", "--out", "o", "--method", "rtn", "--scheme", "w8a8"],
    *["--escalate-max-bytes-ratio", "0.9"],
]

REFUSED = {
    "no command": ([], "the following arguments are required: COMMAND"),
    "an unknown command": (["fly"], "argument COMMAND: invalid choice: 'fly' (choose from"),
    "an abbreviated option": ([*EVALUATE, "--conf", "0.9"], "unrecognized arguments: --conf 0.9"),
    "an unknown method": (
        [*QUANTIZE, "--method", "nf4", "--scheme", "W4A16"],
        "argument --method: 'nf4' is not one of RTN, GPTQ, AWQ, SmoothQuant",
    ),
    "an unknown scheme": (
        [*QUANTIZE, "--method", "rtn", "--scheme", "W2"],
        "argument --scheme: 'W2' is not one of W4A16, W8A16, W8A8, FP8, FP8Static",
    ),
    "a group size that no kernel takes": (
        [*QUANTIZE, "--method", "rtn", "--scheme", "w4a16", "--group-size", "48"],
        "groupSize: must be one of 32, 64, 128",
    ),
    "a group size without groups": (
        [*QUANTIZE, "--method", "rtn", "--scheme", "w8a8", "--group-size", "64"],
        "groupSize: only W4A16 has groups; leave groupSize out with any other scheme",
    ),
    "GPTQ without data": (
        [*QUANTIZE, "--method", "gptq", "--scheme", "W4A16"],
        "--calibration is needed by --method GPTQ --scheme W4A16 --group-size 128",
    ),
    "two places to write to": (
        [*QUANTIZE, "--method", "rtn", "--scheme", "w8a8", "--store", "s"],
        "argument --store: not allowed with argument --out",
    ),
    "too few tokens": (
        [*EVALUATE, "--max-tokens", "3"],
        "argument --max-tokens: '3' is not a whole number from 16 to 131072",
    ),
    "samples that are no number": (
        ["sample", "--calibration-samples", "many"],
        "argument --calibration-samples: 'many' is not a whole number from 1 to 100000",
    ),
    "memory without a number": (
        [*QUANTIZE, "--activation-memory", "lots"],
        "argument --activation-memory: 'lots' is not a number of bytes such as 500M or 2Gi",
    ),
    "cards that are not judged": (
        [*QUANTIZE, "--tensor-parallel", "3"],
        "argument --tensor-parallel: invalid choice: 3 (choose from 1, 2, 4, 8)",
    ),
    "an unknown kind of redaction": (
        ["sample", "--redact", "name"],
        "argument --redact: 'name' is not one of email, phone, card, ip",
    ),
    "a confidence in per cent": (
        [*EVALUATE, "--confidence", "95"],
        "argument --confidence: '95' is not a share from 0.5 to 0.99999, as 0.95",
    ),
    "a confidence that takes more resamples than anybody waits for": (
        [*EVALUATE, "--confidence", "0.999999"],
        "argument --confidence: '0.999999' is not a share from 0.5 to 0.99999, as 0.95",
    ),
    "a result in a folder that is not there": (
        [*EVALUATE, "--result", "/no/folder/result"],
        "argument --result: the folder /no/folder does not exist",
    ),
    "a page in a folder that is not there": (
        ["run", "-f", "f", "--html", "/no/folder/page.html"],
        "argument --html: the folder /no/folder does not exist",
    ),
    "a result that is a folder": ([*EVALUATE, "--result", "/"], "argument --result: / is a folder"),
    "a digest that is cut": (
        [*EVALUATE, "--model-digest", "abc"],
        "argument --model-digest: 'abc' is not a SHA-256, 64 hexadecimal digits",
    ),
    "a verdict without gates": ([*EVALUATE, "--exit-verdict"], "--exit-verdict needs --gates"),
    "gates that are missing": (
        [*EVALUATE, "--gates", "/no/gates.yaml"],
        "argument --gates: can't read /no/gates.yaml: No such file or directory",
    ),
    "an escalation without what it is to hold on": (
        [*ESCALATED, "--gates-json", '{"klDivergence": {"max": 0.1}}'],
        "--selection is needed by --method RTN --scheme W8A8 --escalate-max-bytes-ratio 0.9",
    ),
    "an escalation without limits": (
        [*ESCALATED, "--selection", "selection.jsonl"],
        "--gates is needed by --method RTN --scheme W8A8 --escalate-max-bytes-ratio 0.9",
    ),
    "limits for a candidate that is not escalated": (
        [*ESCALATED[:-2], "--gates-json", '{"klDivergence": {"max": 0.1}}'],
        "--gates is of use only with --escalate-max-bytes-ratio",
    ),
    "limits that are no gates": (
        [*ESCALATED, "--gates-json", '{"speed": {"max": 1}}'],
        "argument --gates-json: speed: Extra inputs are not permitted",
    ),
    "a candidate that is no JSON": (["inspect", "--candidate", "{"], "argument --candidate: Invalid JSON"),
    "a candidate with an unknown field": (
        ["inspect", "--candidate", '{"name": "a", "method": "RTN", "scheme": "W8A8", "bits": 4}'],
        "argument --candidate: bits: Extra inputs are not permitted",
    ),
    "an engine without a name for the candidate": (
        [*EVALUATE, "--engine-url", "http://localhost:8000/v1"],
        "--engine-url and --engine-model need each other",
    ),
    "an engine at no URL": (
        [*EVALUATE, "--engine-url", "localhost:8000"],
        "argument --engine-url: 'localhost:8000' is not a URL such as http://host:8000/v1",
    ),
    "tasks for an engine": (
        [*EVALUATE, "--tasks", "t", "--engine-url", "http://localhost:8000/v1", "--engine-model", "m"],
        "--tasks are done here, not by the engine of --engine-url",
    ),
    "an unknown rule of selection": (
        ["report", "--selection", "best"],
        "argument --selection: 'best' is not one of Smallest, BestQuality",
    ),
    "a prompt that is no text": (
        ["generate", "--model", "m", "--prompt", "caf\udce9"],
        "argument --prompt: it is not UTF-8; where the locale is another one, set PYTHONUTF8=1 or give --prompts",
    ),
    "a report that is missing": (
        ["compare", "/no/report.json"],
        "argument FILE: can't read /no/report.json: No such file or directory",
    ),
}


@pytest.mark.parametrize(("argv", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused(argv, words, capsys, monkeypatch):
    monkeypatch.setattr("saffron_quantizer.cli.main.end_at_sigterm", lambda: None)
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert f"error: {words}" in capsys.readouterr().err


GATES = {
    "limits": ("klDivergence: {max: 0.1}\n", None),
    "no YAML": ("{", "is not YAML"),
    "an unknown gate": ("speed: {max: 1}\nklDivergence: {max: 0.1}\n", "speed: Extra inputs are not permitted"),
    "no gate": ("confidence: 0.9\n", "must have at least one of"),
    "a list": ("- 1\n", "is no mapping of limits, as perplexityRatio: {max: 1.05}"),
    "nothing": ("", "is no mapping of limits, as perplexityRatio: {max: 1.05}"),
}


@pytest.mark.parametrize(("text", "words"), GATES.values(), ids=GATES.keys())
def test_a_gates_file_with(text, words, tmp_path, capsys):
    (tmp_path / "gates.yaml").write_text(text)
    argv = [*EVALUATE, "--gates", str(tmp_path / "gates.yaml")]
    if words is None:
        assert build_parser().parse_args(argv).gates.kl_divergence.max == 0.1
        return
    with pytest.raises(SystemExit):
        build_parser().parse_args(argv)
    assert words in capsys.readouterr().err


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["--version"])
    assert (caught.value.code, capsys.readouterr().out) == (0, f"saffron {version('saffron-quantizer')}\n")


def subcommands():
    parser = build_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return commands.choices


@pytest.mark.parametrize(
    "name", ["inspect", "sample", "baseline", "quantize", "evaluate", "compare", "report", "run", "generate"]
)
def test_help_explains_every_option_and_its_default(name):
    for action in subcommands()[name]._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        assert action.help, action.dest
        optional = bool(action.option_strings) and not action.required and action.dest not in {"out", "store"}
        if optional and action.dest != "calibration":
            assert "(default: " in action.help, action.dest


def test_an_option_that_is_left_out_is_not_called_none_which_may_be_a_value_of_it():
    said = {action.dest: action.help.rpartition("(")[2] for action in subcommands()["quantize"]._actions}
    fields = ("act_order", "scale_search", "smoothing", "kv_cache")
    assert {name: said[name] for name in fields} == {
        "act_order": "default: left out)",
        "scale_search": "default: left out)",
        "smoothing": "default: left out)",
        "kv_cache": "default: none)",
    }


@pytest.mark.parametrize("spelling", ["GPTQ", "gptq", "Gptq"])
def test_an_enum_is_read_in_any_case(spelling):
    arguments = build_parser().parse_args([*QUANTIZE, "--method", spelling, "--scheme", "w4A16"])
    assert (arguments.method.value, arguments.scheme.value) == ("GPTQ", "W4A16")


AMOUNTS = {"0": 0, "1024": 1024, "3k": 3000, "500M": 500_000_000, "2Gi": 2_147_483_648, "1.5Ki": 1536, "0.1T": 10**11}


@pytest.mark.parametrize(("text", "expected"), AMOUNTS.items())
def test_bytes_are_read_as_kubernetes_writes_them(text, expected):
    rtn = ("--method", "rtn", "--scheme", "w8a8")
    assert build_parser().parse_args([*QUANTIZE, *rtn, "--activation-memory", text]).activation_memory == expected


def test_plain_lines_come_every_few_seconds_and_at_the_end():
    seconds = iter([0.0, 1.0, 6.0, 7.0, 12.0, 13.0, 14.0])
    stream = io.StringIO()
    lines = PlainLines(stream, clock=lambda: next(seconds))
    for done in range(1, 6):
        lines(Progress("quantizing blocks", done, 5))
    lines(Progress("comparing tokens", 9, 9))
    assert stream.getvalue().splitlines() == [
        "quantizing blocks: 2 of 5, about 15s left",
        "quantizing blocks: 4 of 5, about 4s left",
        "quantizing blocks: 5 of 5",
        "comparing tokens: 9 of 9",
    ]


def test_what_came_before_the_first_step_does_not_lengthen_the_time_left():
    seconds = iter([0.0, 100.0, 106.0, 200.0, 203.0, 206.0])
    stream = io.StringIO()
    lines = PlainLines(stream, clock=lambda: next(seconds))
    for done in (1, 3):
        lines(Progress("tokenizing conversations", done, 9))
    for done in (4, 5, 6):
        lines(Progress("comparing tokens", done, 9))
    assert stream.getvalue().splitlines() == [
        "tokenizing conversations: 1 of 9",
        "tokenizing conversations: 3 of 9, about 18s left",
        "comparing tokens: 4 of 9",
        "comparing tokens: 6 of 9, about 9s left",
    ]


def test_times_and_sizes_are_told_for_people():
    assert [duration(seconds) for seconds in (0.2, 59, 80.4, 3600)] == ["0s", "59s", "1m20s", "60m00s"]
    assert [size(number) for number in (7, 1500, 536_223_056)] == ["7 B", "1.5 kB", "536.2 MB"]
    assert rows(("a", "1"), ("long", "2")) == "a     1\nlong  2"
