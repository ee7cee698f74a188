"""The cases of the suite for cards hold on the CPU too, so that they are right on the day a card is there."""

import pytest
import torch
from gpucases import CASES, Case, normal

from saffron_kernels.problems import stems


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.stem}: {case.name}")
def test_a_case_for_cards_holds_on_the_cpu(case: Case):
    assert case.differences(torch.device("cpu")) == []


def test_every_kernel_has_cases_for_cards():
    assert {case.stem for case in CASES} == set(stems())


def test_a_wrong_result_is_told():
    case = Case(
        "problem",
        "made up",
        lambda: (normal(3, 4), 2.0),
        lambda _, x, factor: (x * factor, (x * factor).half(), x[:2], torch.where(x == x.max(), torch.nan, x)),
        lambda _, x, factor: (x * factor, x * factor, x, x),
    )
    assert case.differences(torch.device("cpu")) == [
        "result 1: torch.float16 [3, 4] instead of torch.float32 [3, 4]",
        "result 2: torch.float32 [2, 4] instead of torch.float32 [3, 4]",
        "result 3: 1 of 12 differ, by up to nan where 0 is allowed",
    ]


@pytest.mark.parametrize(
    ("tolerance", "told"), [(0.01, []), (0.0099, ["1 of 2 differ, by up to 1 where 0.99 is allowed"])]
)
def test_a_tolerance_is_a_part_of_the_largest_magnitude(tolerance: float, told: list[str]):
    case = Case(
        "problem",
        "made up",
        lambda: (torch.tensor([1.0, -100.0]),),
        lambda _, x: x + torch.tensor([1.0, 0.0]),
        lambda _, x: x,
        tolerance,
    )
    assert case.differences(torch.device("cpu")) == [f"result 0: {sentence}" for sentence in told]
