"""The operator's process: its parts, their start and their end."""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime

from kubernetes.aio.client import Configuration

from saffron_operator import access, health, logs, triggers
from saffron_operator.client import Cluster, load_configuration
from saffron_operator.errors import ApiError, OperatorError
from saffron_operator.lease import Lease
from saffron_operator.metrics import Metrics
from saffron_operator.queue import Key, WorkQueue
from saffron_operator.reconcile import Reconciler
from saffron_operator.resources import QUANTIZED_MODELS
from saffron_operator.settings import Settings, parse
from saffron_operator.watches import WatchAges

log = logging.getLogger(__name__)

RESYNC_SECONDS = 300.0
"""Every QuantizedModel is looked at this often even without an event, for an event can be lost."""


def main() -> None:
    """Run until SIGTERM or SIGINT, or until this replica is of no more use; then Kubernetes starts it anew."""
    settings = parse(sys.argv[1:])
    logs.set_up()
    try:
        asyncio.run(run(settings))
    except* OperatorError as errors:
        for error in _leaves(errors):
            log.error("ended", extra={"fields": {"error": error}})  # noqa: TRY400 - the sentence says it; no trace
        sys.exit(1)


def _leaves(errors: BaseExceptionGroup[OperatorError]) -> Iterable[OperatorError]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def run(settings: Settings) -> None:
    """Wait for the Lease, then work until told to stop.

    Raises:
        OperatorError: Alone or in a group: it can't start, lost the Lease or can't reach the API server.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    configuration = await load_configuration(settings.kubeconfig)
    async with _parts(settings, configuration) as parts:
        working = asyncio.create_task(parts.work())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        log.info("stopping")
        stopping.cancel()
        working.cancel()
        try:
            await working
        except asyncio.CancelledError:
            pass  # that was us
        finally:
            # Nothing writes any more, so the next replica may begin at once.
            await parts.lease.release()


class _Parts:
    """What a process is made of, wired together."""

    def __init__(self, settings: Settings, configuration: Configuration, cluster: Cluster, lease: Lease) -> None:
        self.lease = lease
        self._settings = settings
        self._configuration = configuration
        self._cluster = cluster
        self._ages = WatchAges(frozenset())
        self._started = time.monotonic()
        self.metrics = Metrics(self._ages)
        self.metrics.leader.set_function(lambda: float(lease.held))
        self._reconciler = Reconciler(
            cluster=cluster,
            metrics=self.metrics,
            quantizer_image=settings.quantizer_image,
            instance=settings.identity,
            now=lambda: datetime.now(UTC),
        )
        self.queue = WorkQueue(self._reconciler)

    def alive(self) -> health.Problems:
        """Return why this process should be started anew."""
        heard = self.lease.answered if self.lease.answered is not None else self._started
        return health.alive(
            leading=self.lease.held,
            watch_age=self._ages.oldest,
            pass_seconds=self.queue.oldest_pass_seconds(),
            silence=time.monotonic() - heard,
        )

    def ready(self) -> health.Problems:
        """Return why this process can't do its part yet."""
        return health.ready(
            leading=self.lease.held, watching=self._ages.complete, heard=self.lease.answered is not None
        )

    async def work(self) -> None:
        """Become the leader and work; ends only by an error."""
        problems = await access.problems(self._cluster, self._settings.namespaces)
        namespaces = tuple(each for each in self._settings.namespaces if each not in problems)
        if not namespaces:
            await self._tell(problems)
            raise next(iter(problems.values()))
        for problem in problems.values():
            log.error("namespace left out", extra={"fields": {"error": problem}})
        self._ages.expect(each.path(namespace) for each in triggers.WATCHED for namespace in namespaces)
        await self.lease.acquire()
        self._ages.restart()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.lease.keep())
            tasks.create_task(self.queue.run())
            tasks.create_task(self._resync(namespaces))
            tasks.create_task(triggers.run(self._configuration, namespaces, self._ages, self.queue.add))
            tasks.create_task(access.end_when_lost(self._ages))
            if problems:
                left_out = tuple(problems)
                tasks.create_task(access.wait_for_one(self._cluster, left_out, self.queue.add, seconds=RESYNC_SECONDS))

    async def _tell(self, namespaces: Iterable[str]) -> None:
        """Have the QuantizedModels that can be read tell what can't be, before the process ends for that."""
        keys = [key for each in namespaces for key in await access.quantized_models(self._cluster, each)]
        if keys:
            await self.lease.acquire()
        for key in keys:
            with suppress(ApiError):  # it tells of itself, and so will the end
                await self._reconciler(key)

    async def _resync(self, namespaces: tuple[str, ...]) -> None:
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            for namespace in namespaces:
                try:
                    found = await self._cluster.list_all(QUANTIZED_MODELS, namespace, only_metadata=True)
                except ApiError as error:
                    log.warning("resync failed", extra={"fields": {"namespace": namespace, "error": error}})
                    continue
                for each in found:
                    self.queue.add(Key(namespace, each["metadata"]["name"]))


@asynccontextmanager
async def _parts(settings: Settings, configuration: Configuration) -> AsyncIterator[_Parts]:
    """Open the connections and the two ports; close them with the block."""
    async with AsyncExitStack() as stack:
        # The Lease has a connection of its own, so that no pass can keep a renewal waiting.
        lease = Lease(
            await stack.enter_async_context(Cluster(configuration)),
            namespace=settings.lease_namespace,
            name=settings.lease_name,
            identity=settings.identity,
            timing=settings.timing,
        )
        cluster = await stack.enter_async_context(Cluster(configuration, before_write=lease.require))
        parts = _Parts(settings, configuration, cluster, lease)
        probes = health.health_application({"/healthz": parts.alive, "/readyz": parts.ready})
        ports = {}
        for what, application, port in (
            ("health", probes, settings.health_port),
            ("metrics", health.metrics_application(parts.metrics.registry), settings.metrics_port),
        ):
            runner = await health.serve(application, port)
            stack.push_async_callback(runner.cleanup)
            # Any free port is one of IPv4 and another one of IPv6, whose addresses are longer.
            ports[what] = min(runner.addresses, key=len)[1]
        log.info("listening", extra={"fields": ports})
        yield parts


if __name__ == "__main__":
    main()
