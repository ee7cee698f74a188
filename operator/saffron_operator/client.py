"""The one door to the API server: a few verbs on plain JSON, each with a timeout, over the official client.

The client's generated types would hold every manifest twice and drop fields that they don't know, so objects stay
the dictionaries that the server sent.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from saffron_operator.errors import ApiError, ConflictError, RefusedError, StartError
from saffron_operator.resources import Resource

Object = Mapping[str, Any]
"""A Kubernetes object as JSON."""

_NOT_FOUND = 404
_ERRORS: Mapping[int, type[ApiError]] = {400: RefusedError, 403: RefusedError, 409: ConflictError, 422: RefusedError}
_ADMISSION = re.compile(r"failed calling webhook|denied (the )?request")
"""A webhook that can't be asked is HTTP 500, and webhooks and policies that deny may pick any status."""
_PAGE = 500
_TIMEOUT = aiohttp.ClientTimeout(total=15, connect=5)

_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"
_JSON_PATCH = "application/json-patch+json"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


async def load_configuration(kubeconfig: str | None) -> Configuration:
    """Return where the API server is and who we are.

    Args:
        kubeconfig: A file, or None for the service account of the pod that we run in.

    Raises:
        StartError: Neither can be read.
    """
    configuration = Configuration()
    try:
        if kubeconfig is None:
            config.load_incluster_config(client_configuration=configuration)
        else:
            await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    except config.ConfigException as error:
        raise StartError(
            f"There is no way to the API server: {error}. Run in a pod with a service account, or give --kubeconfig."
        ) from error
    return configuration


class Cluster:
    """The API server, as one user."""

    def __init__(self, configuration: Configuration, *, before_write: Callable[[], None] = lambda: None) -> None:
        """Prepare a connection.

        Args:
            configuration: Where and who.
            before_write: Called before every call that changes something, and may raise to forbid it.
        """
        self._client = ApiClient(configuration)
        self._before_write = before_write

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.close()

    async def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """Return an object, or None where there is none of that name."""
        try:
            return await self.send("GET", resource.path(namespace, name))
        except ApiError as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    async def list_all(
        self, resource: Resource, namespace: str, *, labels: str = "", fields: str = "", only_metadata: bool = False
    ) -> Sequence[Object]:
        """Return all objects that a label selector picks, page by page; `ApiError` 404 for an unknown kind."""
        items: list[Object] = []
        query = {"limit": str(_PAGE), "labelSelector": labels, "fieldSelector": fields, "continue": ""}
        while True:
            page = await self.send(
                "GET",
                resource.path(namespace),
                query=[(name, value) for name, value in query.items() if value],
                accept=_METADATA_LIST if only_metadata else _JSON,
            )
            items += page["items"] or ()  # an empty list of metadata is null
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return items

    async def create(self, resource: Resource, namespace: str, body: Object, *, manager: str) -> Object:
        """Create an object; `ConflictError` where one of that name exists."""
        return await self._write("POST", resource.path(namespace), query=[("fieldManager", manager)], body=body)

    async def replace(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        """Replace an object; `ConflictError` where it changed since `metadata.resourceVersion`."""
        return await self._write("PUT", resource.path(namespace, name), body=body)

    async def apply(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        body: Object,
        *,
        manager: str,
        force: bool,
        subresource: str | None = None,
    ) -> Object:
        """Apply an object on the server's side.

        With `metadata.resourceVersion` in the body it must be unchanged since then. Without `force` a field that
        another manager holds is a `ConflictError`, too.
        """
        query = [("fieldManager", manager), ("force", "true" if force else "false")]
        return await self._write(
            "PATCH", resource.path(namespace, name, subresource), query=query, body=body, content_type=_APPLY
        )

    async def patch(self, resource: Resource, namespace: str, name: str, operations: Sequence[Object]) -> Object:
        """Change an object by JSON Patch (RFC 6902): by all of the operations, or by none where one of them fails."""
        return await self._write("PATCH", resource.path(namespace, name), body=operations, content_type=_JSON_PATCH)

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> None:
        """Delete the object of that name and uid and all that it owns; `ConflictError` where the name is another's."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        try:
            await self._write("DELETE", resource.path(namespace, name), body=body)
        except ApiError as error:
            if error.status != _NOT_FOUND:  # it is gone, which is what was asked for
                raise

    async def _write(
        self,
        method: str,
        path: str,
        *,
        body: Object | Sequence[Object],
        query: Sequence[tuple[str, str]] = (),
        content_type: str = _JSON,
    ) -> Object:
        self._before_write()
        return await self.send(method, path, query=query, body=body, content_type=content_type)

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Object | Sequence[Object] | None = None,
        content_type: str = _JSON,
        accept: str = _JSON,
    ) -> Object:
        """Make one call.

        Raises:
            ConflictError: HTTP 409.
            RefusedError: HTTP 400, 403 or 422, or what webhooks and admission policies have the API server answer.
            ApiError: Any other refusal, no answer in time, or none that is JSON.
        """
        call = f"{method} {path}"
        verb, url, headers, payload, _ = await self._client.param_serialize(
            method,
            path,
            query_params=list(query),
            header_params={"Accept": accept, "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            answer = await self._client.call_api(
                verb, url, header_params=headers, body=payload, _request_timeout=_TIMEOUT
            )
            text = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(call, 0, type(error).__name__, f"no answer from the API server ({error!r})") from error
        return _decoded(call, answer.status, text)


def _decoded(call: str, status: int, text: bytes) -> Object:
    """Return the object in an answer, or raise what the answer says."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ApiError(call, status, "NotJson", "the answer is not JSON; is there a proxy in between?") from error
    if status < 300:  # noqa: PLR2004 - HTTP's border between success and the rest
        return dict(value)
    reason, message = value.get("reason", ""), value.get("message", "")
    kind = RefusedError if _ADMISSION.search(message) else _ERRORS.get(status, ApiError)
    raise kind(call, status, reason, message)
