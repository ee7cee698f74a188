"""The commands of the stages' Jobs: what each is told, and that the quantizer understands it."""

from pathlib import Path

from deciding import builders
from deciding.world import World
from deciding.worlds import GPTQ

from saffron_api.quantized_model import QuantizedModelSpec
from saffron_operator.decision import CreateJob
from saffron_quantizer.cli.main import build_parser

W = f"/mnt/workspace/{builders.UID}"


def commands(world: World) -> dict[tuple[str, str], list[str]]:
    """The command of each Job that was created."""
    found = {}
    for act in world.acts:
        if isinstance(act, CreateJob):
            labels = act.manifest["metadata"]["labels"]
            command = act.manifest["spec"]["template"]["spec"]["containers"][0]["command"]
            found[labels["saffron.dev/stage"], labels.get("saffron.dev/candidate", "")] = command
    return found


def test_the_commands_hand_each_other_what_they_make():
    data = {"source": {"dataset": {"uri": "pvc://data/a/prompts.jsonl"}}, "redact": ["ip", "email"], "seed": 3}
    world = World(spec=builders.spec(data=data)).run()
    run = world.status.run
    assert run is not None
    assert run.model_digest is not None
    assert run.sample_key is not None
    model = ["--model-digest", run.model_digest, "--hash-cache", f"{W}/hashes.json"]
    samples = f"{W}/samples/{run.sample_key[:16]}"
    baseline = f"{W}/baseline/{run.sample_key[:16]}"
    end = ["--result", "/dev/termination-log"]
    found = commands(world)
    key = next(each.key for each in world.status.candidates if each.name == "gptq-int4") or ""
    assert found["inspect", ""] == [
        *["saffron", "inspect", "--model", "/mnt/model/qwen", "--hash-cache", f"{W}/hashes.json"],
        *["--calibration-samples", "64", "--max-tokens", "2048"],
        *["--candidate", '{"name": "rtn-int4", "method": "RTN", "scheme": "W4A16", "groupSize": 128}'],
        *["--candidate", '{"name": "gptq-int4", "method": "GPTQ", "scheme": "W4A16", "groupSize": 128}'],
        *["--candidate", '{"name": "int8", "method": "RTN", "scheme": "W8A8"}', *end],
    ]
    assert found["sample", ""] == [
        *["saffron", "sample", "--model", "/mnt/model/qwen", *model[:2], "--dataset", "/mnt/data/a/prompts.jsonl"],
        *["--calibration-samples", "64", "--evaluation-samples", "64", "--max-tokens", "2048", "--seed", "3"],
        *["--redact", "ip", "--redact", "email", "--out", samples, *end],
    ]
    assert found["baseline", ""] == [
        *["saffron", "baseline", "--model", "/mnt/model/qwen", *model],
        *["--data", f"{samples}/gate.jsonl", "--out", baseline, *end],
    ]
    assert found["quantize", "gptq-int4"] == [
        *["saffron", "quantize", "--model", "/mnt/model/qwen", *model],
        *["--calibration", f"{samples}/calibration.jsonl", "--method", "GPTQ", "--scheme", "W4A16"],
        *["--group-size", "128", "--work", f"{W}/quantize/{key[:16]}", "--store", "/mnt/checkpoints/saffron", *end],
    ]
    assert "--group-size" not in found["quantize", "int8"]
    evaluate = found["evaluate", "gptq-int4"]
    out = evaluate[evaluate.index("--out") + 1]
    assert out.startswith(f"{W}/evaluate/")
    assert evaluate == [
        *["saffron", "evaluate", "--original", "/mnt/model/qwen", *model, "--baseline", baseline],
        *["--candidate", f"/mnt/checkpoints/saffron/{GPTQ}", "--data", f"{samples}/gate.jsonl"],
        *["--confidence", "0.983333", "--out", out, *end],
    ]


def test_only_the_stages_that_run_the_model_are_told_of_a_card_which_is_in_no_key():
    world = World(spec=builders.spec(job={"podTemplate": {"resources": {"limits": {"nvidia.com/gpu": 1}}}})).run()
    on_cpu = commands(World().run())
    ends = {name: command[len(on_cpu[name]) :] for name, command in commands(world).items()}
    device = ["--device", "cuda"]
    names = ("rtn-int4", "gptq-int4", "int8")
    assert ends == {
        ("inspect", ""): [],
        ("sample", ""): [],
        ("baseline", ""): device,
        **{(stage, name): device for stage in ("quantize", "evaluate") for name in names},
    }
    assert {name: command[: len(on_cpu[name])] for name, command in commands(world).items()} == on_cpu
    parser = build_parser()
    assert {parser.parse_args([*on_cpu[name][1:], *end]).device for name, end in ends.items() if end} == {"cuda"}


def escalated() -> QuantizedModelSpec:
    candidates = [dict(each) for each in builders.CANDIDATES]
    candidates[1]["escalate"] = {"maxBytesRatio": 0.8}
    return builders.spec(candidates=candidates)


def test_only_a_candidate_that_is_escalated_is_told_of_the_selection_set_and_the_limits():
    spec = escalated()
    world = World(spec=spec).run()
    run = world.status.run
    assert run is not None
    assert run.sample_key is not None
    found = commands(world)
    command = found["quantize", "gptq-int4"]
    begin = command.index("--escalate-max-bytes-ratio")
    assert command[begin : begin + 6] == [
        *["--escalate-max-bytes-ratio", "0.8"],
        *["--selection", f"{W}/samples/{run.sample_key[:16]}/selection.jsonl"],
        *["--gates-json", spec.gates.model_dump_json(by_alias=True, exclude_none=True)],
    ]
    for name in ("rtn-int4", "int8"):
        assert not {"--selection", "--gates-json"} & set(found["quantize", name])
    arguments = build_parser().parse_args(command[1:])
    assert (arguments.gates, arguments.escalate) == (spec.gates, 0.8)


def test_the_quantizer_understands_every_command():
    world = World(spec=builders.spec(data={"source": {"dataset": {"uri": "pvc://d/p.jsonl"}}, "redact": ["ip"]})).run()
    parser = build_parser()
    for command in commands(world).values():
        assert parser.parse_args(command[1:]).result == Path("/dev/termination-log")
