"""Durations, and that the words for people agree with the patterns for machines."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from saffron_api.scalars import Duration, Quantity, duration

DURATIONS = {"30s": 30, "10m": 600, "1h30m": 5400, "1h1h": 7200, "0s": 0, "2h3m4s": 7384}


@pytest.mark.parametrize(("text", "seconds"), DURATIONS.items())
def test_a_duration_is_the_sum_of_its_parts(text: str, seconds: int) -> None:
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "10", "m", "1.5h", "-1s", "1d", "10m ", "1h-1s", "1000000s", "10m\n"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as 30s, 10m or 1h30m"):
        duration(text)


@given(st.lists(st.tuples(st.integers(0, 999_999), st.sampled_from("smh")), min_size=1, max_size=2))
def test_a_pause_is_taken_exactly_if_it_is_1s_to_168h(parts: list[tuple[int, str]]) -> None:
    text = "".join(f"{number}{unit}" for number, unit in parts)
    if timedelta(seconds=1) <= duration(text) <= timedelta(hours=168):
        assert TypeAdapter(Duration).validate_python(text) == text
    else:
        with pytest.raises(ValidationError, match="from 1s to 168h"):
            TypeAdapter(Duration).validate_python(text)


@pytest.mark.parametrize("amount", [0, 2, "2", "500m", "16Gi", "1.5", "0.5Gi", "1E"])
def test_a_quantity(amount: int | str) -> None:
    assert TypeAdapter(Quantity).validate_python(amount) == amount


@pytest.mark.parametrize("amount", ["", "lots", "1 Gi", "-1", -1, True, 1.5, None, "1e3", "16GiB", "9" * 33, [1]])
def test_what_is_no_quantity_is_refused(amount: object) -> None:
    with pytest.raises(ValidationError, match="a Kubernetes quantity such as 2, 500m or 16Gi"):
        TypeAdapter(Quantity).validate_python(amount)
