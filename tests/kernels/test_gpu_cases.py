"""The cases of the suite for cards hold on the CPU too, so that they are right on the day a card is there."""

import pytest
import torch
from gpucases import CASES, Case

from saffron_kernels.problems import stems


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.stem}: {case.name}")
def test_a_case_for_cards_holds_on_the_cpu(case: Case):
    assert case.differences(torch.device("cpu")) == []


def test_every_kernel_has_cases_for_cards():
    assert {case.stem for case in CASES} == set(stems())


def test_a_wrong_result_is_told():
    case = next(case for case in CASES if case.stem == "gptq_block")

    def wrong(module, *arguments):
        result = case.run(module, *arguments)
        error = result.error.clone()
        error[0, 0, 0] = torch.nan
        return result._replace(codes=result.codes.short(), error=error)

    spoilt = Case(case.stem, case.name, case.make, wrong, case.reference)
    assert spoilt.differences(torch.device("cpu")) == [
        "result 0: torch.int16 [1, 257, 128] instead of torch.int8 [1, 257, 128]",
        "result 2: 1 of 32896 differ, by up to nan where 0 is allowed",
    ]
