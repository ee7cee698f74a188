"""The order in which a pass reads: pods after the Jobs that they are of."""

import asyncio
from collections.abc import Sequence
from typing import Any

from kubernetes.aio.client import Configuration

from saffron_operator.client import Cluster, Object
from saffron_operator.observe import observe
from saffron_operator.queue import Key
from saffron_operator.resources import JOBS, Resource

METADATA = {"uid": "u", "generation": 1, "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}


class Recording(Cluster):
    """Answers as an empty namespace does, and takes note of the order."""

    def __init__(self) -> None:
        super().__init__(Configuration())
        self.order: list[str] = []

    async def get(self, resource: Resource, namespace: str, name: str) -> Object | None:  # noqa: ARG002 - it has one
        return {"metadata": METADATA | {"name": name, "namespace": namespace}, "spec": {}}

    async def list_all(
        self,
        resource: Resource,
        namespace: str,  # noqa: ARG002 - there is one
        *,
        only_metadata: bool = False,
        **_: Any,
    ) -> Sequence[Object]:
        if not only_metadata:
            self.order.append(f"{resource.plural} asked for")
            await asyncio.sleep(0.01 if resource is JOBS else 0)
            self.order.append(f"{resource.plural} told")
        return ()


async def test_a_job_that_ends_while_a_pass_reads_is_not_over_without_its_pods_message() -> None:
    """Were pods read first, such a Job would be complete while its pod still runs, and its work be done again."""
    async with Recording() as cluster:
        await observe(cluster, Key("serving", "qwen"), quantizer_image="")
        assert cluster.order == ["jobs asked for", "jobs told", "pods asked for", "pods told"]
