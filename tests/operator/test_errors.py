"""Errors, as metrics tell them apart."""

import pytest

from saffron_operator.errors import ApiError

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
