"""Operators for the tests: whole processes under the chart's rights, and bare loops that can be stopped at any call."""

import asyncio
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from apilevel import setup

from saffron_dev.controlplane import ControlPlane
from saffron_operator.client import Cluster, Object
from saffron_operator.errors import ConflictError
from saffron_operator.metrics import Metrics
from saffron_operator.queue import Key
from saffron_operator.reconcile import Reconciler
from saffron_operator.watches import WatchAges

PASS_SECONDS = 0.5
"""A bare loop looks this often; the real one is called by events."""


@dataclass
class Process:
    """A running `saffron-operator`."""

    process: asyncio.subprocess.Process
    log: list[str] = field(default_factory=list)

    async def read(self) -> None:
        """Collect its log until it ends."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.log.append(line.decode().rstrip())

    def port(self, of: str) -> int:
        """Return the port of `health` or `metrics`, as the log has it."""
        for line in self.log:
            found = re.search(rf"msg=listening .*{of}=(\d+)", line)
            if found:
                return int(found[1])
        raise AssertionError(f"the log names no port of {of}: {self.log}")

    async def get(self, of: str, path: str) -> tuple[int, str]:
        """Return status and body of an answer."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port(of)}{path}") as answer,
        ):
            return answer.status, await answer.text()

    def resident_megabytes(self) -> float:
        """Return the resident memory of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (kilobytes,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
        return int(kilobytes) / 1024

    async def logged(self, text: str, seconds: float = 20) -> None:
        """Wait until a line of the log has the text."""
        await until(lambda: any(text in line for line in self.log), seconds, f"{text!r} in the log: {self.log}")

    async def ready(self, seconds: float = 20) -> None:
        """Wait until it says that it can do its part."""
        deadline = time.monotonic() + seconds
        while (answer := await self.get("health", "/readyz")) != (200, "ok\n"):
            assert time.monotonic() < deadline, f"not ready within {seconds:g} s: {answer}"
            await asyncio.sleep(0.2)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal and return the exit code and the seconds it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        return await self.ended(), time.monotonic() - began

    async def ended(self) -> int:
        """Wait for its end and return the exit code."""
        return await asyncio.wait_for(self.process.wait(), 30)


@asynccontextmanager
async def process(
    control_plane: ControlPlane,
    *namespaces: str,
    seconds: float = 6,
    identity: str = "one",
    kubeconfig: Path | None = None,
) -> AsyncIterator[Process]:
    """Run the operator's own program as its service account; what is left of it goes with the block."""
    arguments = [
        *(f"--namespace={namespace}" for namespace in namespaces),
        *(
            f"--quantizer-image={setup.QUANTIZER_IMAGE}",
            f"--kubeconfig={kubeconfig or setup.operator_kubeconfig(control_plane)}",
        ),
        *(f"--lease-namespace={setup.SYSTEM}", f"--lease-name={setup.OPERATOR}", f"--lease-seconds={seconds}"),
        *(f"--identity={identity}", "--health-port=0", "--metrics-port=0"),
    ]
    started = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("saffron-operator")), *arguments, stderr=asyncio.subprocess.PIPE
    )
    running = Process(started)
    reading = asyncio.create_task(running.read())
    try:
        yield running
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()
        await reading
        print(*running.log, sep="\n")  # noqa: T201 - pytest shows it where a test fails


async def until(holds: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.05)


async def until_promoted(admin: Cluster, key: Key, seconds: float = 90) -> Mapping[str, Any]:
    """Wait until a QuantizedModel is promoted and return its status."""
    deadline = time.monotonic() + seconds
    while True:
        status = await setup.status(admin, key)
        if (setup.condition(status, "Ready") or ("", "", ""))[:2] == ("True", "Promoted"):
            return status
        assert time.monotonic() < deadline, f"not promoted within {seconds:g} s: {status}"
        await asyncio.sleep(0.3)


class StoppedError(BaseException):
    """The operator died. No part of it may catch this."""


class CountingCluster(Cluster):
    """A client that numbers its mutating calls, and dies at one of them: before it is sent, or after it was done."""

    def arm(self, *, stop_before: int | None = None, stop_after: int | None = None) -> None:
        """Say at which call to die, counted from 1; never by default."""
        self.calls: list[str] = []
        self._stop_before, self._stop_after = stop_before, stop_after

    async def _write(self, method: str, path: str, **given: Any) -> Object:
        number = len(self.calls) + 1
        if number == self._stop_before:
            raise StoppedError
        self.calls.append(f"{method} {kind(path)}")
        answer = await super()._write(method, path, **given)
        if number == self._stop_after:
            raise StoppedError
        return answer


def kind(path: str) -> str:
    """Return what a path names without the names: `jobs`, `quantizedmodels/status`."""
    parts = path.split("/namespaces/", 1)[1].split("/")[1:]
    return "/".join([parts[0], *parts[2:]])


def reconciler(cluster: Cluster) -> Reconciler:
    """Return a fresh operator without a memory."""
    return Reconciler(
        cluster=cluster,
        metrics=Metrics(WatchAges(frozenset())),
        quantizer_image=setup.QUANTIZER_IMAGE,
        instance="test",
        now=lambda: datetime.now(UTC),
    )


async def drive(
    operator: Reconciler, key: Key, done: Callable[[Mapping[str, Any]], bool], *, admin: Cluster, seconds: float = 90
) -> Mapping[str, Any]:
    """Do passes until the status says done, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            await operator(key)
        except ConflictError:
            continue  # as the queue does, at once
        found = await setup.status(admin, key)
        if done(found):
            return found
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {found}"
        await asyncio.sleep(PASS_SECONDS)
