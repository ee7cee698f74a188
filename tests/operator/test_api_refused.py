"""What the API server refuses to do: told where a person looks, and tried again until it is done."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from apilevel import setup
from apilevel.setup import SERVICE_ACCOUNTS

from saffron_operator.act import act
from saffron_operator.client import Cluster
from saffron_operator.decision import Decision, Event, EventType
from saffron_operator.errors import ApiError
from saffron_operator.queue import Key
from saffron_operator.reading import meta
from saffron_operator.reconcile import Reconciler
from saffron_operator.resources import EVENTS, JOBS, QUANTIZED_MODELS

TOO_LITTLE = {"requests": {"memory": "16Gi"}, "limits": {"memory": "8Gi"}}


async def test_a_job_that_the_api_server_refuses_is_told_until_it_is_taken(
    served: str, admin: Cluster, operator: Reconciler
) -> None:
    key = await setup.begin(admin, served, job={"podTemplate": {"resources": TOO_LITTLE}})
    for _ in range(3):
        assert "must be less than or equal to memory limit" in await setup.refused(operator(key))
    status = await setup.status(admin, key)
    stalled = setup.condition(status, "Stalled")
    assert stalled is not None
    assert stalled[1] == "Refused"
    assert "must be less than or equal to memory limit" in stalled[2]
    told = [each["reason"] for each in await admin.list_all(EVENTS, served) if each["regarding"]["name"] == "model"]
    assert told.count("Refused") == 1

    await setup.edit(admin, QUANTIZED_MODELS, served, key.name, {"spec": {"job": {"podTemplate": None}}})
    await goes_on(admin, operator, key)


async def goes_on(admin: Cluster, operator: Reconciler, key: Key) -> None:
    """What was refused is no more: the first Job is made, and the status takes back what it told."""
    assert await operator(key) == 0, "the status still tells what was refused"
    await operator(key)
    status = await setup.status(admin, key)
    assert setup.condition(status, "Stalled") is None
    assert setup.ready(status)[1] == "Inspecting"
    assert len(await admin.list_all(JOBS, key.namespace)) == 1


WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
FAILED = 'failed calling webhook "broken.saffron.test"'


@asynccontextmanager
async def broken_webhook(admin: Cluster, namespace: str, group: str, resource: str) -> AsyncIterator[None]:
    """Have the API server ask a webhook that nobody answers for about all of a kind in a namespace.

    It is asked about service accounts, too, so that a trial tells when the API server has taken note of it.
    """
    kinds = ((group, resource), (SERVICE_ACCOUNTS.group, SERVICE_ACCOUNTS.plural))
    rules = [{"apiGroups": [one], "apiVersions": ["*"], "operations": ["*"], "resources": [two]} for one, two in kinds]
    configuration = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": f"broken-{namespace}"},
        "webhooks": [
            {
                "name": "broken.saffron.test",
                "clientConfig": {"url": "https://127.0.0.1:1/mutate"},
                "rules": rules,
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
        ],
    }

    async def until_asked(wanted: object) -> None:
        deadline = time.monotonic() + 30
        while await _is_asked(admin, namespace) is not wanted:
            assert time.monotonic() < deadline, "the API server takes no note of the webhook"
            await asyncio.sleep(0.2)

    await admin.send("POST", WEBHOOKS, body=configuration)
    try:
        await until_asked(True)
        yield
    finally:
        await admin.send("DELETE", f"{WEBHOOKS}/broken-{namespace}")
    await until_asked(False)


async def _is_asked(admin: Cluster, namespace: str) -> bool:
    trial = {"metadata": {"labels": {"a": "b"}}}
    try:
        await setup.edit(admin, SERVICE_ACCOUNTS, namespace, "default", trial, dry_run=True)
    except ApiError as error:
        return FAILED in error.message
    return False


async def refusals(admin: Cluster, namespace: str) -> list[tuple[str, str]]:
    found = await admin.list_all(EVENTS, namespace)
    return [(each["type"], each["note"]) for each in found if each["reason"] == "Refused"]


async def test_a_webhook_that_does_not_answer_is_told_until_it_does(
    served: str, admin: Cluster, operator: Reconciler
) -> None:
    key = await setup.begin(admin, served)
    async with broken_webhook(admin, served, JOBS.group, JOBS.plural):
        for _ in range(3):
            assert FAILED in await setup.refused(operator(key))
        stalled = setup.condition(await setup.status(admin, key), "Stalled")
        assert stalled is not None
        assert stalled[1] == "Refused"
        assert FAILED in stalled[2]
        assert await refusals(admin, served) == [("Warning", stalled[2])]
    await goes_on(admin, operator, key)


async def test_a_status_that_a_webhook_keeps_from_being_written_is_told_by_one_event(
    served: str, admin: Cluster, operator: Reconciler
) -> None:
    key = await setup.begin(admin, served)
    async with broken_webhook(admin, served, QUANTIZED_MODELS.group, f"{QUANTIZED_MODELS.plural}/status"):
        for _ in range(3):
            assert FAILED in await setup.refused(operator(key))
        ((kind, note),) = await refusals(admin, served)
        assert kind == "Warning"
        assert note.startswith("The API server does not take the status (PATCH ")
        assert FAILED in note
        assert await admin.list_all(JOBS, served) == []
    await operator(key)
    assert setup.ready(await setup.status(admin, key))[0] == "False"


async def test_an_event_that_is_refused_keeps_nothing_from_being_done_or_told(
    served: str, admin: Cluster, operator: Reconciler
) -> None:
    key = await setup.begin(admin, served)
    async with broken_webhook(admin, served, EVENTS.group, EVENTS.plural):
        for _ in range(3):
            await operator(key)
            assert setup.ready(await setup.status(admin, key)) == ("False", "Inspecting")
    assert len(await admin.list_all(JOBS, served)) == 1


@pytest.mark.parametrize("letter", ["a", "é", "名", "🌸"], ids=["1 byte", "2 bytes", "3 bytes", "4 bytes"])
async def test_an_event_of_any_letters_is_taken(served: str, admin: Cluster, letter: str) -> None:
    await setup.create(admin, QUANTIZED_MODELS, setup.quantized_model(served))
    resource = meta(await admin.get(QUANTIZED_MODELS, served, "model") or {})
    told = Decision(status=None, events=(Event(EventType.WARNING, "Refused", letter * 1024),))
    await act(admin, resource, None, told, instance="test")
    ((_, note),) = await refusals(admin, served)
    assert (
        note == letter * 1024 if letter == "a" else note.removesuffix("...") == letter * (1021 // len(letter.encode()))
    )
