"""Which of the listed namespaces can be read: one that can't, say because it was deleted, is no reason to serve none.

Tried once before the watches begin, for a watch that is refused is refused in the middle of somebody else's trace.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from saffron_operator.client import Cluster
from saffron_operator.errors import ApiError, RestartError, StartError
from saffron_operator.queue import Key
from saffron_operator.resources import QUANTIZED_MODELS
from saffron_operator.triggers import WATCHED
from saffron_operator.watches import WatchAges

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0

_FORBIDDEN = 403
_NOT_FOUND = 404


async def problems(cluster: Cluster, namespaces: Sequence[str]) -> Mapping[str, StartError]:
    """Return the namespaces that can't be read, each with why.

    Raises:
        StartError: It is not the namespaces: the CRD is missing, or the API server does not answer.
    """
    found = {namespace: await _problem(cluster, namespace) for namespace in namespaces}
    return {namespace: problem for namespace, problem in found.items() if problem is not None}


async def wait_for_one(
    cluster: Cluster, namespaces: Sequence[str], look_at: Callable[[Key], None], *, seconds: float
) -> None:
    """Return never; look from time to time whether a namespace that was left out can be read by now.

    Args:
        cluster: Where.
        namespaces: Those that were left out.
        look_at: Called each time with the QuantizedModels in them that can be read: they are to tell what can't be.
        seconds: From one look to the next.

    Raises:
        RestartError: One can be. What is watched is fixed for the life of a process.
    """
    while True:
        for namespace in namespaces:
            try:
                problem = await _problem(cluster, namespace)
            except StartError as error:
                # What is served goes on; if the API server is gone for long, the Lease ends the process.
                log.warning("not looked at", extra={"fields": {"namespace": namespace, "error": error}})
                continue
            if problem is None:
                raise RestartError(f"The namespace {namespace} can be read by now; the next start serves it, too.")
            for key in await quantized_models(cluster, namespace):
                look_at(key)
        await asyncio.sleep(seconds)


async def quantized_models(cluster: Cluster, namespace: str) -> Sequence[Key]:
    """Return the QuantizedModels of a namespace; none where they can't be read either, as if it is gone."""
    try:
        found = await cluster.list_all(QUANTIZED_MODELS, namespace, only_metadata=True)
    except ApiError:
        return ()
    return [Key(namespace, each["metadata"]["name"]) for each in found]


async def end_when_lost(ages: WatchAges) -> None:
    """Return never; look whether a watch is refused that was not when it began.

    Kopf gives up all watches after the ninth refusal of one, and may never come to an end with that.

    Raises:
        RestartError: One is. The next start leaves its namespace out.
    """
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if ages.lost:
            raise RestartError(
                f"The API server refuses to watch {', '.join(ages.lost)}; the next start serves the rest."
            )


async def _problem(cluster: Cluster, namespace: str) -> StartError | None:
    """Return why a namespace can't be read, or None where it can.

    Raises:
        StartError: It is not the namespace: the CRD is missing, or the API server does not answer.
    """
    for resource in WATCHED:
        try:
            await cluster.send("GET", resource.path(namespace), query=[("limit", "1")])
        except ApiError as error:
            if error.status == _NOT_FOUND:
                raise StartError(
                    f"The API server knows no {resource.plural}: install the CRD (the chart does: crds.install)."
                ) from error
            problem = StartError(
                f"Can't list {resource.plural} in namespace {namespace}: {error.message}. "
                "Add the namespace to the chart's watchNamespaces, which makes the RoleBinding there."
            )
            if error.status != _FORBIDDEN:
                raise problem from error
            return problem
    return None
