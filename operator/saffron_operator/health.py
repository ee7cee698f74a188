"""Is this process of any use? Kubernetes asks: alive (else restart it) and ready (else count it out).

A process that waits for the Lease is healthy while the API server answers it. The leader is healthy while it holds
the Lease, all of its watches show signs of life and no pass hangs.
"""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from saffron_operator.watches import SERVER_TIMEOUT_SECONDS

LONGEST_WATCH_AGE_SECONDS = 4.0 * SERVER_TIMEOUT_SECONDS
LONGEST_PASS_SECONDS = 180.0
LONGEST_SILENCE_SECONDS = 120.0

Problems = list[str]
Check = Callable[[], Problems]


def alive(*, leading: bool, watch_age: float, pass_seconds: float, silence: float) -> Problems:
    """Return why the process should be started anew; empty where it should not.

    Args:
        leading: Whether it has won the Lease.
        watch_age: Seconds since the quietest watch was known to be alive.
        pass_seconds: For how long the oldest pass has run.
        silence: Seconds since the API server last answered about the Lease.
    """
    problems = []
    if silence > LONGEST_SILENCE_SECONDS:
        problems.append(f"the API server has not answered about the Lease for {silence:.0f} s")
    if leading and watch_age > LONGEST_WATCH_AGE_SECONDS:
        problems.append(f"a watch has shown no sign of life for {watch_age:.0f} s")
    if leading and pass_seconds > LONGEST_PASS_SECONDS:
        problems.append(f"a pass has run for {pass_seconds:.0f} s")
    return problems


def ready(*, leading: bool, watching: bool, heard: bool) -> Problems:
    """Return why the process can't do its part yet.

    Args:
        leading: Whether it has won the Lease.
        watching: Whether each watch was answered once.
        heard: Whether the API server ever answered about the Lease.
    """
    if not heard:
        return ["the API server has not answered yet"]
    return ["not all watches have begun"] if leading and not watching else []


def health_application(checks: Mapping[str, Check]) -> web.Application:
    """Return what answers each path with 200, or with 503 and the problems."""
    application = web.Application()
    for path, check in checks.items():
        application.router.add_get(path, _answer(check))
    return application


def _answer(check: Check) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_request: web.Request) -> web.StreamResponse:
        problems = check()
        return web.Response(text="\n".join(problems or ["ok"]) + "\n", status=503 if problems else 200)

    return answer


def metrics_application(registry: CollectorRegistry) -> web.Application:
    """Return what answers /metrics in Prometheus' text format."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    application = web.Application()
    application.router.add_get("/metrics", answer)
    return application


async def serve(application: web.Application, port: int) -> web.AppRunner:
    """Listen on all addresses of the pod; the caller ends it with `cleanup`."""
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port, shutdown_timeout=1).start()
    return runner
