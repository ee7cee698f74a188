"""Leader election by a Lease: one replica writes, the others wait, and one that lost the Lease ends.

Clocks of different machines are never compared. A waiting replica takes the Lease over when it has not seen it change
for the whole duration on its own clock; the leader stops writing well before that, also by its own clock.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from saffron_operator.client import Cluster, Object
from saffron_operator.errors import ApiError, ConflictError, LeadershipLostError
from saffron_operator.names import FIELD_MANAGER
from saffron_operator.resources import LEASES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """Seconds: how long a Lease is good for, when its holder gives up, how often it renews.

    A write that was begun just before `give_up` can reach the server later; half of `duration` is left for that, which
    is what the client waits for an answer (15 s). A write that is later still fails on its resourceVersion.
    """

    duration: float = 30.0
    give_up: float = 15.0
    renew: float = 5.0

    @classmethod
    def of(cls, duration: float) -> Self:
        """Return the usual shares of a duration."""
        return cls(duration=duration, give_up=duration / 2, renew=duration / 6)


class Lease:
    """One replica's claim to be the leader."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        namespace: str,
        name: str,
        identity: str,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._timing = timing or Timing()
        self._clock = clock
        self._renewed: float | None = None
        self._seen: tuple[str, float] | None = None
        self.answered: float | None = None
        """When the API server last answered a question about the Lease, by the clock."""

    @property
    def held(self) -> bool:
        """Whether this replica may write now."""
        return self._renewed is not None and self._clock() - self._renewed < self._timing.give_up

    def require(self) -> None:
        """Do nothing while this replica may write.

        Raises:
            LeadershipLostError: It may not.
        """
        if not self.held:
            raise LeadershipLostError(f"{self._identity} does not hold the Lease {self._namespace}/{self._name}")

    async def acquire(self) -> None:
        """Wait until this replica is the leader."""
        log.info("waiting for the lease", extra={"fields": {"lease": f"{self._namespace}/{self._name}"}})
        while True:
            if await self._try():
                break
            await asyncio.sleep(self._timing.renew)
        log.info("leading", extra={"fields": {"identity": self._identity}})

    async def keep(self) -> None:
        """Renew until that fails for too long.

        Raises:
            LeadershipLostError: Another replica took over, or may do so soon.
        """
        while True:
            await asyncio.sleep(self._timing.renew)
            if not await self._try():
                self.require()

    async def release(self) -> None:
        """Give the Lease back, so that the next replica need not wait for its end."""
        if not self.held:
            return
        lease = await self._cluster.get(LEASES, self._namespace, self._name)
        if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
            await self._write(lease, {**lease["spec"], "holderIdentity": "", "renewTime": _now()})
        self._renewed = None
        log.info("lease released")

    async def _try(self) -> bool:
        """Take or renew the Lease. False: another replica has it, or the API server did not agree."""
        began = self._clock()
        try:
            # An answer that takes longer comes too late to go on with, or to try once more.
            async with asyncio.timeout(self._timing.give_up - self._timing.renew):
                taken = await self._take()
        except ConflictError:
            return False  # another replica was quicker
        except (ApiError, TimeoutError) as error:
            log.warning("lease not reachable", extra={"fields": {"error": error}})
            return False
        self.answered = self._clock()
        self._renewed = began if taken else None
        return taken

    async def _take(self) -> bool:
        lease = await self._cluster.get(LEASES, self._namespace, self._name)
        if lease is None:
            await self._write(None, {**self._claim(), "acquireTime": _now(), "leaseTransitions": 0})
            return True
        spec = lease["spec"]
        holder = spec.get("holderIdentity") or ""
        if holder == self._identity:
            await self._write(lease, {**spec, **self._claim()})
            return True
        if holder and not self._expired(lease):
            return False
        transitions = spec.get("leaseTransitions", 0) + 1
        await self._write(lease, {**self._claim(), "acquireTime": _now(), "leaseTransitions": transitions})
        return True

    def _expired(self, lease: Object) -> bool:
        """Whether the Lease has not changed for its whole duration while we watched."""
        version = lease["metadata"]["resourceVersion"]
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, self._clock())
        duration = lease["spec"].get("leaseDurationSeconds", self._timing.duration)
        return bool(self._clock() - self._seen[1] >= duration)

    def _claim(self) -> Mapping[str, Any]:
        # The API takes whole seconds only.
        seconds = max(1, round(self._timing.duration))
        return {"holderIdentity": self._identity, "leaseDurationSeconds": seconds, "renewTime": _now()}

    async def _write(self, lease: Object | None, spec: Mapping[str, Any]) -> None:
        metadata = lease["metadata"] if lease else {"name": self._name, "namespace": self._namespace}
        body = {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": metadata, "spec": spec}
        if lease is None:
            await self._cluster.create(LEASES, self._namespace, body, manager=FIELD_MANAGER)
        else:
            await self._cluster.replace(LEASES, self._namespace, self._name, body)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
