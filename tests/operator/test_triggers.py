"""Kopf in its thread: when it ends, whatever ended it, the operator hears of it."""

import asyncio
import threading
from typing import Any

import kopf
import pytest
from kubernetes.aio.client import Configuration

from saffron_operator import triggers
from saffron_operator.queue import Key
from saffron_operator.watches import WatchAges


async def test_watches_that_end_by_themselves_are_no_silent_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a namespace's RoleBinding is taken away: Kopf gives up, and nothing is watched in any namespace."""

    async def ends(*, stop_flag: threading.Event, **_: object) -> None:
        # What waits in a thread is not cancelled with the rest, and a loop does not close before its threads end.
        asyncio.get_running_loop().run_in_executor(None, stop_flag.wait)
        raise RuntimeError("a watch is forbidden")

    monkeypatch.setattr(kopf, "operator", ends)
    running = asyncio.create_task(
        triggers.run(Configuration(), ("serving",), WatchAges(frozenset()), lambda _key: None)
    )
    ended, _ = await asyncio.wait({running}, timeout=5)
    running.cancel()
    assert ended == {running}, "it waits for a word to stop, which comes from nobody"
    with pytest.raises(RuntimeError, match="a watch is forbidden"):
        await running


def quantized_model(name: str, target: str | None, *, event: str = "MODIFIED") -> dict[str, Any]:
    """What Kopf passes with an event of a QuantizedModel."""
    rollout = {} if target is None else {"rollout": {"targetRef": {"name": target}}}
    return {"namespace": "serving", "name": name, "spec": rollout, "type": event}


@pytest.mark.parametrize(
    ("now", "looked_at"),
    [
        pytest.param(quantized_model("older", "qwen"), {"older"}, id="it stays with its target"),
        pytest.param(quantized_model("older", "gemma"), {"older", "younger"}, id="it names another target"),
        pytest.param(quantized_model("older", None), {"older", "younger"}, id="it has no roll-out any more"),
        pytest.param(quantized_model("older", "qwen", event="DELETED"), {"older", "younger"}, id="it is gone"),
    ],
)
async def test_who_waits_for_a_target_hears_when_an_older_one_leaves_it(
    now: dict[str, Any], looked_at: set[str]
) -> None:
    heard: list[Key] = []
    handlers = triggers.registry(Configuration(), WatchAges(frozenset()), heard.append)
    (of_model,) = (each.fn for each in handlers._watching._handlers if each.fn.__name__ == "on_quantized_model")
    memo = kopf.Memo()
    # The index is of what is named by now, so that nobody stands in it who has left.
    targets = {Key("serving", "qwen"): ["younger"], Key("serving", "qwen-saffron"): ["younger"]}
    await of_model(**quantized_model("older", "qwen", event="ADDED"), memo=memo, targets=targets)
    heard.clear()
    await of_model(**now, memo=memo, targets=targets)
    assert {each.name for each in heard} == looked_at
