"""The demo itself: its steps in their order."""

import shlex
import signal
import time
from pathlib import Path
from typing import Any, NoReturn

import yaml

from saffron_api.status import QuantizedModelStatus
from saffron_dev.demo import asking, serving, storage, story
from saffron_dev.demo.client import QUESTION
from saffron_dev.demo.follow import JOBS, follow, settle
from saffron_dev.demo.kubectl import Kubectl
from saffron_dev.demo.place import Place, install_operator, place
from saffron_dev.demo.settings import Settings
from saffron_dev.demo.stopwatch import Stopwatch
from saffron_dev.errors import DevError
from saffron_dev.gemma import fetch_gemma
from saffron_dev.paths import REPOSITORY
from saffron_dev.prose import fetch_prose

EXAMPLE = REPOSITORY / "examples" / "demo.yaml"
NAME = "gemma"
PROSE = "prose.jsonl"

_GPU = "nvidia.com/gpu"
_RUN_SECONDS = 3600
_START_SECONDS = 600
_END_SECONDS = 120
_AFTERWARDS_SECONDS = 5


def tour(settings: Settings, *, keep: bool) -> None:
    """Show the whole way, from an empty cluster to a promoted checkpoint, and clean up.

    Raises:
        DevError: Something is missing, or the end is not what it should be.
    """
    watch = Stopwatch()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with place(settings, watch, keep=keep) as where:
            engine = prepare(where, watch)
            show(where, engine, watch)
    finally:
        print(f"\nWhere the time went\n{watch.table()}")


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    """Clean up on SIGTERM as on Ctrl-C."""
    raise KeyboardInterrupt


def prepare(where: Place, watch: Stopwatch) -> serving.Engine:
    """Make what a user of Saffron has before he has Saffron, then install it: a model that is served and asked."""
    with watch.step("Fetching Gemma 3 270M and six novels"):
        model, prose = fetch_gemma(), fetch_prose()
    with watch.step("Copying them to the claim `models`"):
        put_inputs(where, model, prose)
    engine = serving.choose_engine(storage.cpu_flags(where.serving), transformers=where.settings.transformers)
    watch.say(f"Serving with {engine.name}: {engine.reason}")
    with watch.step("Installing the operator with helm"):
        install_operator(where)
    with watch.step("Starting the model server"):
        where.serving.apply(serving.serving(engine, where.settings.image("engine")))
        where.serving.run(
            *("rollout", "status", f"deployment/{serving.TARGET}", f"--timeout={_START_SECONDS}s"),
            seconds=_START_SECONDS + 10,
        )
    where.serving.apply(asking.asker(where.settings.image("quantizer"), engine.model))
    where.serving.run("wait", f"pod/{asking.ASKER}", "--for=condition=Ready", "--timeout=60s")
    return engine


def put_inputs(where: Place, model: Path, prose: Path) -> None:
    """Make the claims and put the model and the data set on the first of them."""
    where.serving.apply(
        [*storage.claims(where.settings.storage_class), storage.loader(where.settings.image("quantizer"))]
    )
    where.serving.run("wait", f"pod/{storage.LOADER}", "--for=condition=Ready", "--timeout=120s")
    storage.put(where.serving, model, serving.MODEL)
    storage.put(where.serving, prose, PROSE)


def show(where: Place, engine: serving.Engine, watch: Stopwatch) -> None:
    """Apply one QuantizedModel and tell what becomes of it.

    Raises:
        DevError: It was not promoted, or a request failed meanwhile.
    """
    kubectl = where.serving
    before = ask(kubectl, engine)
    watch.say(f"Asked before: {QUESTION!r} -> {before!r}")
    watch.say(shlex.join(["kubectl", "apply", f"--filename={EXAMPLE.relative_to(REPOSITORY)}"]))
    with watch.step("From kubectl apply to promoted"):
        kubectl.apply([example(gpu=where.settings.gpu)])
        status = follow(kubectl, NAME, watch, seconds=_RUN_SECONDS)
    for job, seconds in story.job_seconds(kubectl.items("jobs", JOBS)):
        watch.add(f"  Job {job}", seconds)
    print(f"\n{story.candidates_table(status.candidates, _confidence())}\n")
    print(kubectl.run("get", "quantizedmodels"))
    _require_promoted(status)
    watch.say(f"Asked after:  {QUESTION!r} -> {ask(kubectl, engine)!r}")
    for line in _sizes(kubectl, status):
        watch.say(line)
    requests = final_answers(kubectl)
    watch.say(f"The client that asked all the time: {asking.summary(requests)}")
    if any(request.error is not None for request in requests):
        raise DevError("A request failed while the checkpoint was rolled out; it is printed above.")


def final_answers(kubectl: Kubectl) -> list[asking.Answer]:
    """Return all that the client asked, once the pods that were replaced have ended while it asked."""
    settle(kubectl, f"app={serving.TARGET}", 1, seconds=_END_SECONDS)
    time.sleep(_AFTERWARDS_SECONDS)
    return asking.answers(kubectl)


def example(*, gpu: bool) -> dict[str, Any]:
    """Return the QuantizedModel of examples/demo.yaml; with a GPU the candidate with limits of its own asks for it."""
    resource: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    if gpu:
        for candidate in resource["spec"]["candidates"]:
            if "job" in candidate:
                candidate["job"]["resources"]["limits"][_GPU] = 1
    return resource


def ask(kubectl: Kubectl, engine: serving.Engine) -> str:
    """Ask the served model once, from inside the cluster, and return how it goes on."""
    return kubectl.run("exec", asking.ASKER, "--", *asking.command(engine.model)).removesuffix("\n")


def _confidence() -> float:
    return float(example(gpu=False)["spec"]["gates"]["confidence"])


def _require_promoted(status: QuantizedModelStatus) -> None:
    if status.promoted is None or not any(
        condition.type == "Ready" and condition.status == "True" for condition in status.conditions
    ):
        raise DevError(f"The run did not end with a promoted checkpoint: {story.headline(status)}")


def _sizes(kubectl: Kubectl, status: QuantizedModelStatus) -> list[str]:
    """Return what the weights take on the volume, of the original and of what is served now."""
    original = sum(storage.weights(kubectl, storage.MODELS, serving.MODEL).values())
    if status.promoted is None:
        raise AssertionError("asked for before the promotion")
    served = f"saffron/{status.promoted.checkpoint_digest}"
    checkpoint = sum(storage.weights(kubectl, storage.CHECKPOINTS, served).values())
    return [
        f"The original's weights: {original / 1e6:.1f} MB of safetensors",
        f"What is served now ({status.promoted.candidate}): {checkpoint / 1e6:.1f} MB, {checkpoint / original:.0%}",
    ]
