"""Kopf as a trigger: every event becomes the name of a QuantizedModel to look at.

Nothing is remembered here but which target a QuantizedModel named, and only to tell others that it is free.

Only `on.event` and `index` handlers are used: they write nothing to an object, neither a finalizer nor an annotation.
Kopf takes signal handlers and, at its end, all tasks of the loop it runs in, so it gets a thread and a loop of its own.
"""

import asyncio
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import aiohttp
import kopf
from kubernetes.aio.client import ApiClient, Configuration

from saffron_api import quantized_model
from saffron_operator.names import MANAGED_BY, MANAGED_BY_LABEL, RESOURCE_LABEL, canary_name
from saffron_operator.queue import Key
from saffron_operator.resources import DEPLOYMENTS, JOBS, PODS, QUANTIZED_MODELS, Resource
from saffron_operator.watches import SERVER_TIMEOUT_SECONDS, WatchAges

WATCHED: tuple[Resource, ...] = (QUANTIZED_MODELS, JOBS, PODS, DEPLOYMENTS)
"""Each is watched in each namespace. Targets carry no label of ours, so Deployments are watched without a selector."""

_OURS = {JOBS: f"{MANAGED_BY_LABEL}={MANAGED_BY}", PODS: RESOURCE_LABEL}
_TARGETS = "targets"


def registry(configuration: Configuration, ages: WatchAges, enqueue: Callable[[Key], None]) -> kopf.OperatorRegistry:
    """Return Kopf's handlers: how to log in, which QuantizedModels name a Deployment, and what each event means.

    Args:
        configuration: Where the API server is and who we are.
        ages: Told of every sign of life of a watch.
        enqueue: Called in Kopf's thread with each QuantizedModel that an event concerns.
    """
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def login(**_: object) -> kopf.AiohttpSession:
        return await _session(configuration, ages)

    @kopf.index(quantized_model.GROUP, quantized_model.PLURAL, id=_TARGETS, registry=handlers)
    async def by_deployment(namespace: str | None, name: str, spec: kopf.Spec, **_: object) -> dict[Key, str]:
        return {_key(namespace, deployment): name for deployment in _deployments(spec)}

    @kopf.on.event(quantized_model.GROUP, quantized_model.PLURAL, registry=handlers)
    async def on_quantized_model(
        namespace: str | None,
        name: str,
        spec: kopf.Spec,
        type: str | None,  # noqa: A002 - Kopf passes it by this name
        memo: kopf.Memo,
        **indices: Any,  # noqa: ANN401 - Kopf passes many things by name
    ) -> None:
        # When one is gone, or names another target, a younger one that waited for its target goes on.
        named = set() if type == "DELETED" else set(_deployments(spec))
        left = {*memo.get(_TARGETS, ()), *_deployments(spec)} - named
        memo[_TARGETS] = named
        for each in {name, *_looking_at(left, namespace, indices[_TARGETS])}:
            enqueue(_key(namespace, each))

    @kopf.on.event(JOBS.group, JOBS.plural, registry=handlers)
    @kopf.on.event("", PODS.version, PODS.plural, registry=handlers)
    async def on_ours(namespace: str | None, labels: Mapping[str, str], **_: object) -> None:
        if RESOURCE_LABEL in labels:
            enqueue(_key(namespace, labels[RESOURCE_LABEL]))

    @kopf.on.event(DEPLOYMENTS.group, DEPLOYMENTS.plural, registry=handlers)
    async def on_deployment(namespace: str | None, name: str, labels: Mapping[str, str], **indices: Any) -> None:  # noqa: ANN401 - Kopf passes many things by name
        canary_of = {labels[RESOURCE_LABEL]} if RESOURCE_LABEL in labels else set()
        for owner in {*canary_of, *_looking_at((name,), namespace, indices[_TARGETS])}:
            enqueue(_key(namespace, owner))

    return handlers


def _deployments(spec: kopf.Spec) -> tuple[str, ...]:
    """Return the names of the Deployments that a QuantizedModel looks at: of its target and of its canary."""
    rollout = spec.get("rollout")
    return (rollout["targetRef"]["name"], canary_name(rollout["targetRef"]["name"])) if rollout else ()


def _looking_at(
    deployments: Iterable[str], namespace: str | None, index: Mapping[Key, Collection[str]]
) -> Iterator[str]:
    """Yield the names of the QuantizedModels that look at one of these Deployments."""
    for deployment in deployments:
        yield from index.get(_key(namespace, deployment), ())


def _key(namespace: str | None, name: str) -> Key:
    if namespace is None:
        raise TypeError(f"{name} has no namespace, though only namespaced objects are watched")
    return Key(namespace, name)


async def _session(configuration: Configuration, ages: WatchAges) -> kopf.AiohttpSession:
    """Return a session of our user whose watches are observed. Kopf asks again when a token is no longer accepted."""
    tls = ApiClient(configuration).rest_client.ssl_context
    authorization = await configuration.get_api_key_with_prefix("BearerToken")
    return kopf.AiohttpSession(
        server=configuration.host,
        aiohttp_session=aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=tls),
            headers={"Authorization": authorization} if authorization else {},
            trace_configs=[ages.trace()],
        ),
    )


def settings() -> kopf.OperatorSettings:
    """Return Kopf's settings: no writes of its own, no wider rights than ours, only our Jobs and their pods."""
    result = kopf.OperatorSettings()
    result.posting.enabled = False
    result.scanning.disabled = True
    result.process.ultimate_exiting_timeout = None
    result.queueing.exit_timeout = 0.1
    result.watching.server_timeout = SERVER_TIMEOUT_SECONDS
    result.watching.connect_timeout = 5
    result.networking.request_timeout = 30
    for resource, selector in _OURS.items():
        result.watching.label_selectors[resource.group, resource.version, resource.plural] = selector
    return result


async def run(
    configuration: Configuration, namespaces: tuple[str, ...], ages: WatchAges, add: Callable[[Key], None]
) -> None:
    """Watch until cancelled; ends by itself only with Kopf's error.

    Args:
        configuration: Where the API server is and who we are.
        namespaces: What to watch.
        ages: Told of every sign of life of a watch.
        add: Called in this loop with each QuantizedModel that an event concerns.
    """
    loop = asyncio.get_running_loop()

    def enqueue(key: Key) -> None:
        loop.call_soon_threadsafe(add, key)

    stop = threading.Event()
    watching = asyncio.create_task(asyncio.to_thread(_watch, registry(configuration, ages, enqueue), namespaces, stop))
    try:
        await asyncio.shield(watching)
    finally:
        stop.set()
        await watching


def _watch(handlers: kopf.OperatorRegistry, namespaces: tuple[str, ...], stop: threading.Event) -> None:
    async def until_it_ends() -> None:
        try:
            await kopf.operator(
                registry=handlers, settings=settings(), namespaces=namespaces, standalone=True, stop_flag=stop
            )
        finally:
            # Kopf waits for the flag in a thread of its loop, and the loop's end waits for that thread: an error would
            # never come out of here.
            stop.set()

    asyncio.run(until_it_ends())
