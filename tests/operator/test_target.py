"""Reading a target: the path that the server reads, what is mounted there, and what Saffron refuses to work with."""

from copy import deepcopy
from typing import Any

import pytest
from deciding import builders
from deciding.world import World

from saffron_operator import target
from saffron_operator.names import overlay_manager
from saffron_operator.observed import Engine, Overlay, TargetFacts, TargetProblem

URI = "pvc://models/qwen"
MODULE = "vllm.entrypoints.openai.api_server"


def read(deployment: dict[str, Any], model_uri: str = URI) -> TargetFacts | TargetProblem:
    return target.read(deployment, container="server", model_uri=model_uri)


def facts(deployment: dict[str, Any]) -> TargetFacts:
    found = read(deployment)
    assert isinstance(found, TargetFacts), found
    return found


SERVERS: list[tuple[str, dict[str, Any], Engine]] = [
    ("vllm serve PATH", {"command": ["vllm", "serve", "/models/qwen"]}, Engine.VLLM),
    (
        "options before and after",
        {"command": ["/usr/bin/vllm"], "args": ["serve", "/models/qwen", "--port", "80"]},
        Engine.VLLM,
    ),
    ("the module with --model PATH", {"command": ["python", "-m", MODULE, "--model", "/models/qwen"]}, Engine.VLLM),
    (
        "the module with --model=PATH",
        {"command": ["python", "-m", MODULE], "args": ["--model=/models/qwen"]},
        Engine.VLLM,
    ),
    (
        "an image whose entry point serves",
        {"command": None, "image": "vllm/vllm-openai:v1", "args": ["--model", "/models/qwen"]},
        Engine.VLLM,
    ),
    (
        "an image whose entry point is vllm",
        {"command": None, "image": "vllm/vllm-openai:v1", "args": ["serve", "/models/qwen", "--port", "80"]},
        Engine.VLLM,
    ),
    (
        "an image whose entry point is vllm serve",
        {"command": None, "image": "vllm/vllm-openai:v1", "args": ["/models/qwen", "--port", "80"]},
        Engine.VLLM,
    ),
    ("a slash too many", {"command": ["vllm", "serve", "/models//qwen/"]}, Engine.VLLM),
    (
        "transformers",
        {"command": ["transformers", "serve", "/models/qwen", "--device", "cpu"]},
        Engine.TRANSFORMERS,
    ),
]


@pytest.mark.parametrize(("container", "engine"), [row[1:] for row in SERVERS], ids=[row[0] for row in SERVERS])
def test_the_model_is_found_in_the_servers_arguments(container: dict[str, Any], engine: Engine):
    found = facts(builders.deployment(container=container))
    assert (found.engine, found.model_path) == (engine, "/models/qwen")


CARDS: list[tuple[str, list[str], int | None]] = [
    ("nothing", [], 1),
    ("the option and its value", ["--tensor-parallel-size", "4"], 4),
    ("both in one word", ["--tensor-parallel-size=2", "--port", "80"], 2),
    ("its short name", ["-tp", "8"], 8),
    ("underscores", ["--tensor_parallel_size", "2"], 2),
    ("another value later", ["-tp=2", "--tensor-parallel-size", "4"], 4),
    ("a variable", ["--tensor-parallel-size", "$(CARDS)"], None),
    ("no card", ["-tp", "0"], None),
]


@pytest.mark.parametrize(("arguments", "cards"), [row[1:] for row in CARDS], ids=[row[0] for row in CARDS])
def test_the_cards_that_serve_together_are_said_by(arguments: list[str], cards: int | None):
    container = {"command": ["vllm", "serve", "/models/qwen", *arguments]}
    assert facts(builders.deployment(container=container)).cards == cards


CLAIM = {"name": "models", "persistentVolumeClaim": {"claimName": "models"}}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (
        "a container of another name",
        {"container": {"name": "main"}},
        "The target has no container server; it has main. Name one of these.",
    ),
    (
        "a shell",
        {"container": {"command": ["/bin/sh", "-c", "vllm serve /models/qwen"]}},
        "containers[server].command: a shell hides the model's path; write the server and its arguments as a list.",
    ),
    (
        "another server",
        {"container": {"command": ["text-generation-launcher", "--model-id", "/models/qwen"]}},
        (
            f"containers[server].command: neither `vllm serve PATH`, `python -m {MODULE} --model PATH` nor "
            "`transformers serve PATH`; Saffron knows no other server."
        ),
    ),
    (
        "no path",
        {"container": {"command": ["vllm", "serve", "--port", "80"]}},
        "containers[server].args: no --model PATH and no `serve PATH`; give the model's path there.",
    ),
    (
        "a model's name",
        {"container": {"command": ["vllm", "serve", "Qwen/Qwen2.5-7B"]}},
        (
            "containers[server].args: the model is Qwen/Qwen2.5-7B, which is no absolute path; mount the model and "
            "give its path."
        ),
    ),
    (
        "a variable",
        {"container": {"command": ["vllm", "serve", "/models/$(MODEL)"]}},
        (
            "containers[server].args: the model is /models/$(MODEL), which is no absolute path; mount the model and "
            "give its path."
        ),
    ),
    (
        "an image of another name with a path alone",
        {"container": {"command": None, "args": ["/models/qwen"]}},
        (
            f"containers[server].command: neither `vllm serve PATH`, `python -m {MODULE} --model PATH` nor "
            "`transformers serve PATH`; Saffron knows no other server."
        ),
    ),
    (
        "a command that is given nothing but a path",
        {"container": {"command": ["start"], "image": "vllm/vllm-openai:v1", "args": ["/models/qwen"]}},
        (
            f"containers[server].command: neither `vllm serve PATH`, `python -m {MODULE} --model PATH` nor "
            "`transformers serve PATH`; Saffron knows no other server."
        ),
    ),
    (
        "nothing mounted above it",
        {"container": {"command": ["vllm", "serve", "/srv/qwen"]}},
        "containers[server].volumeMounts: no volume is mounted above the model's path /srv/qwen; mount one.",
    ),
    (
        "a neighbour whose name begins alike",
        {"container": {"command": ["vllm", "serve", "/models-old/qwen"]}},
        "containers[server].volumeMounts: no volume is mounted above the model's path /models-old/qwen; mount one.",
    ),
    (
        "a mount at the very path",
        {"container": {"volumeMounts": [{"name": "models", "mountPath": "/models/qwen", "subPath": "qwen"}]}},
        (
            "containers[server].volumeMounts: the model's path /models/qwen is itself a mountPath, and a path can be "
            "mounted only once; mount its parent folder."
        ),
    ),
    (
        "another model of the same claim",
        {"container": {"command": ["vllm", "serve", "/models/gemma"]}},
        (
            "containers[server].volumeMounts: the server reads pvc://models/gemma, and spec.model.uri is "
            "pvc://models/qwen; the checkpoint would replace another model than the one it was made from."
        ),
    ),
]


@pytest.mark.parametrize(("changes", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_cannot_be_worked_with_is_refused_by_its_field(changes: dict[str, Any], message: str):
    assert read(builders.deployment(**deepcopy(changes))) == TargetProblem("TargetUnsupported", message)


def test_a_sub_path_of_the_claim_counts_as_part_of_the_models_path():
    mount = {"name": "models", "mountPath": "/srv", "subPath": "team/a"}
    deployment = builders.deployment(container={"command": ["vllm", "serve", "/srv/qwen"], "volumeMounts": [mount]})
    assert isinstance(read(deployment, "pvc://models/team/a/qwen"), TargetFacts)
    assert isinstance(read(deployment), TargetProblem)


def test_the_model_on_another_kind_of_volume_is_taken_on_trust():
    deployment = builders.deployment(pod={"volumes": [{"name": "models", "hostPath": {"path": "/srv"}}]})
    assert facts(deployment).model_path == "/models/qwen"


def served() -> tuple[dict[str, Any], World]:
    """A target with a promoted checkpoint on it."""
    world = World().run()
    assert world.deployment is not None
    return world.deployment, world


def test_the_overlay_is_read_back_and_is_no_part_of_the_template():
    deployment, world = served()
    bare = facts(builders.deployment())
    found = facts(deployment)
    assert found.overlay == Overlay(
        run=world.run_id,
        candidate="gptq-int4",
        digest=builders.hexadecimal("checkpoint of gptq-int4"),
        manager=overlay_manager(builders.UID),
    )
    assert (found.template, found.template_hash) == (bare.template, bare.template_hash)


def test_an_overlay_over_a_path_that_the_server_left_is_none():
    deployment, _ = served()
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["command"] = ["vllm", "serve", "/models/new/qwen"]
    found = target.read(deployment, container="server", model_uri="pvc://models/new/qwen")
    assert isinstance(found, TargetFacts)
    assert found.overlay is None


def test_a_volume_of_our_name_that_is_not_ours_is_a_conflict():
    deployment, _ = served()
    del deployment["metadata"]["managedFields"]
    found = read(deployment)
    assert isinstance(found, TargetProblem)
    assert found.reason == "TargetConflict"
    assert found.message.startswith("volumes[saffron-checkpoint] of the target was not put there by Saffron")


QUANTIZED: list[tuple[str, list[str], list[str], str | None]] = [
    ("nothing", ["vllm", "serve"], [], None),
    ("the option and its value", ["vllm", "serve"], ["--quantization", "fp8"], "fp8"),
    ("both in one word", ["vllm", "serve"], ["--quantization=fp8"], "fp8"),
    ("its short form", ["vllm", "serve"], ["-q", "bitsandbytes", "--port", "80"], "bitsandbytes"),
    ("another value later", ["vllm", "serve"], ["-q=fp8", "--quantization", "experts_int8"], "experts_int8"),
    ("a value that says nothing", ["vllm", "serve"], ["--quantization", "None"], None),
    ("an option that begins alike", ["vllm", "serve"], ["--quantization-param-path", "/scales.json"], None),
    ("transformers", ["transformers", "serve"], ["--quantization", "bnb-4bit"], "bnb-4bit"),
    ("a short form that transformers does not know", ["transformers", "serve"], ["-q", "x"], None),
]


@pytest.mark.parametrize(("server", "given", "method"), [row[1:] for row in QUANTIZED], ids=[r[0] for r in QUANTIZED])
def test_how_a_server_quantizes_what_it_loads_is_said_by(server: list[str], given: list[str], method: str | None):
    container = {"command": server, "args": ["/models/qwen", *given]}
    assert facts(builders.deployment(container=container)).quantization == method


EDITS: list[tuple[str, dict[str, Any], bool]] = [
    ("another image", {"container": {"image": "localhost/engine:2"}}, True),
    ("a restart", {"template": {"metadata": {"annotations": {"restartedAt": "now"}}}}, True),
    ("more replicas", {"replicas": 9}, False),
    ("another strategy", {"strategy": {"type": "Recreate"}}, False),
]


@pytest.mark.parametrize(("changes", "differs"), [row[1:] for row in EDITS], ids=[row[0] for row in EDITS])
def test_the_template_hash_follows_the_pods_alone(changes: dict[str, Any], differs: bool):  # noqa: FBT001
    plain, edited = builders.deployment(), builders.deployment(**deepcopy(changes))
    if "template" in changes:
        edited["spec"]["template"] = plain["spec"]["template"] | {
            "metadata": {"labels": {"app": "qwen"}, "annotations": {"restartedAt": "now"}}
        }
    assert (facts(plain).template_hash != facts(edited).template_hash) is differs


def test_reading_changes_nothing_of_what_was_read():
    deployment, _ = served()
    before = deepcopy(deployment)
    read(deployment)
    assert deployment == before


PRE_STOP, PROBE, STRATEGY = "lifecycle.preStop", "readinessProbe", "maxUnavailable"
WARNED: list[tuple[str, dict[str, Any], list[str]]] = [
    ("all there", {}, []),
    ("no preStop", {"container": {"lifecycle": None}}, [PRE_STOP]),
    ("no readiness", {"container": {"readinessProbe": None}}, [PROBE]),
    ("Recreate", {"strategy": {"type": "Recreate"}}, [STRATEGY]),
    ("the default of 25 % of 4 pods", {"strategy": {}}, [STRATEGY]),
    ("the default of 25 % of 3 pods, which is none", {"strategy": {}, "replicas": 3}, []),
    (
        "neither more nor fewer pods, where one goes all the same",
        {"strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 0}}},
        [STRATEGY],
    ),
]


@pytest.mark.parametrize(("changes", "words"), [row[1:] for row in WARNED], ids=[row[0] for row in WARNED])
def test_what_may_lose_requests_is_warned_about(changes: dict[str, Any], words: list[str]):
    warnings = facts(builders.deployment(**deepcopy(changes))).warnings
    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings, strict=True))


def test_the_servers_environment_is_read_where_it_is_written_out():
    env = [
        {"name": "VLLM_CPU_INT4_W4A8", "value": "1"},
        {"name": "VLLM_CPU_INT4_W4A8", "value": "0"},
        {"name": "EMPTY"},
        {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ]
    assert facts(builders.deployment(container={"env": env})).environment == {"VLLM_CPU_INT4_W4A8=0", "EMPTY="}
    assert facts(builders.deployment()).environment == frozenset()


def test_a_gpu_among_the_limits_makes_it_accelerated():
    gpu = builders.deployment(container={"resources": {"limits": {"nvidia.com/gpu": "1"}}})
    assert facts(gpu).accelerated
    assert not facts(builders.deployment()).accelerated
    none = builders.deployment(container={"resources": {"limits": {"nvidia.com/gpu": "0"}}})
    assert not facts(none).accelerated
