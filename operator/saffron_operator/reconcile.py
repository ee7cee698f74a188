"""One pass: observe, decide, act."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from saffron_api.quantized_model import QuantizedModelStatus
from saffron_operator.act import act, describe
from saffron_operator.client import Cluster
from saffron_operator.decide import decide, unseen
from saffron_operator.decision import Decision
from saffron_operator.errors import ApiError, ConflictError, RefusedError
from saffron_operator.metrics import Metrics, StageSeconds
from saffron_operator.observe import Unseen, observe
from saffron_operator.observed import ResourceMeta
from saffron_operator.queue import Key

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reconciler:
    """What every pass needs.

    Attributes:
        cluster: Where.
        metrics: Shown what was decided.
        quantizer_image: What Jobs run.
        instance: This replica's name, for the events.
        now: The time, with its zone.
        clock: Seconds, which no correction of the time moves.
        refused: What the API server refused in the last pass of a key. Nothing is decided by it, it is only told.
        attending: Since when, by the clock, each key is looked at and what is decided is done.
    """

    cluster: Cluster
    metrics: Metrics
    quantizer_image: str
    instance: str
    now: Callable[[], datetime]
    clock: Callable[[], float] = time.monotonic
    refused: dict[Key, str] = field(default_factory=dict)
    attending: dict[Key, float] = field(default_factory=dict)

    async def __call__(self, key: Key) -> float | None:
        """Do one pass and return the seconds until the next one is due, or None where only a change calls for it.

        Raises:
            ApiError: A call failed.
            LeadershipLostError: This replica may not write any more.
        """
        try:
            with self.metrics.reconcile_seconds.time():
                return await self._pass(key)
        except Exception as error:
            kind = error.kind if isinstance(error, ApiError) else type(error).__name__
            self.metrics.reconcile_errors.labels(kind).inc()
            if not isinstance(error, ConflictError):  # that one only says to look again
                self.attending.pop(key, None)
            raise

    async def _pass(self, key: Key) -> float | None:
        seen = await observe(self.cluster, key, quantizer_image=self.quantizer_image)
        if seen is None:
            self.metrics.forget(key)
            self.refused.pop(key, None)
            self.attending.pop(key, None)
            return None
        if isinstance(seen, Unseen):
            told = unseen(seen.meta, seen.spec, seen.status, str(seen.error), self.now())
            await self._act(key, seen.meta, seen.status, told)
            raise seen.error
        clock = self.clock()
        attended = timedelta(seconds=clock - self.attending.setdefault(key, clock))
        decision = decide(replace(seen.observed, refused=self.refused.get(key), attended=attended), self.now())
        if decision.idle:
            self.attending.pop(key, None)
        if decision.actions:
            acts = "; ".join(describe(decision.actions))
            log.info("acting", extra={"fields": {"key": "/".join(key), "acts": acts}})
        await self._act(key, seen.observed.meta, seen.status, decision, seen.stages)
        # What is no longer refused is still told; the next pass takes that back.
        return decision.requeue_after if self.refused.pop(key, None) is None else 0.0

    async def _act(
        self,
        key: Key,
        meta: ResourceMeta,
        before: QuantizedModelStatus | None,
        decision: Decision,
        stages: tuple[StageSeconds, ...] = (),
    ) -> None:
        refused = self.refused.get(key)
        try:
            await act(self.cluster, meta, before, decision, instance=self.instance, refused=refused)
        except RefusedError as error:
            self.refused[key] = str(error)
            self._show(key, decision, stages)
            raise
        self._show(key, decision, stages)

    def _show(self, key: Key, decision: Decision, stages: tuple[StageSeconds, ...]) -> None:
        if decision.status is not None:
            self.metrics.show(key, decision.status, stages)
