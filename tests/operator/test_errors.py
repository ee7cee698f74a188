"""Errors: what an answer of the API server becomes, and how metrics tell them apart."""

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from saffron_operator.client import Cluster
from saffron_operator.errors import ApiError, ConflictError, RefusedError
from saffron_operator.resources import JOBS

KINDS = [
    (409, "AlreadyExists", "Conflict"),
    (403, "pod qwen-7f of team search lacks the label cost-centre", "Forbidden"),
    (500, "", "InternalServerError"),
    (599, "Odd", "Other"),
    (0, "TimeoutError", "TimeoutError"),
]


@pytest.mark.parametrize(("status", "reason", "kind"), KINDS)
def test_no_text_of_others_becomes_a_label(status: int, reason: str, kind: str):
    assert ApiError("POST /jobs", status, reason, "no").kind == kind


ANSWERS = [
    ("somebody was quicker", 409, "Operation cannot be fulfilled", ConflictError),
    ("a quota", 403, "exceeded quota: gpus", RefusedError),
    ("an invalid Job", 422, "spec.template: Invalid value", RefusedError),
    ("the API server is not well", 500, "Internal error occurred: etcdserver: request timed out", ApiError),
    ("a webhook that can't be asked", 500, 'Internal error occurred: failed calling webhook "a.b"', RefusedError),
    ("a webhook that denies as it likes", 409, 'admission webhook "a.b" denied the request: no', RefusedError),
    (
        "a policy that denies as it likes",
        413,
        "ValidatingAdmissionPolicy 'a' with binding 'b' denied request: no",
        RefusedError,
    ),
]


@pytest.mark.parametrize(("status", "message", "kind"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS])
async def test_an_answer_is_told_apart_by_what_to_do_about_it(status: int, message: str, kind: type[ApiError]):
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "reason": "Word", "message": message}, status=status)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with Cluster(Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")) as cluster:
            with pytest.raises(ApiError) as raised:
                await cluster.create(JOBS, "serving", {}, manager="test")
    finally:
        await runner.cleanup()
    assert (type(raised.value), raised.value.message) == (kind, message)
