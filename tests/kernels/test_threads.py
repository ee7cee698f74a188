"""Rows shared among threads: each once, errors raised when all is still, and no thread more than torch would take."""

import threading

import pytest
import torch

from saffron_kernels.threads import over_rows


@pytest.fixture(autouse=True)
def _torchs_number_stays():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    torch.set_num_threads(request.param)
    return request.param


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("rows", [0, 1, 2, 5, 64])
def test_each_row_is_in_one_part(rows):
    done = []
    over_rows(rows, lambda begin, end: done.extend(range(begin, end)), least=1)
    assert sorted(done) == list(range(rows))


@pytest.mark.parametrize(("least", "parts"), [(1, 3), (2, 2), (4, 1), (100, 1)])
def test_a_part_is_worth_a_thread(least, parts):
    torch.set_num_threads(3)
    done = []
    over_rows(5, lambda begin, end: done.append((begin, end)), least=least)
    assert len(done) == parts


def test_the_first_part_is_the_callers_and_the_others_run_beside_it(threads):
    meeting = threading.Barrier(threads, timeout=10)
    names = {}

    def part(begin, _end):
        meeting.wait()
        names[begin] = threading.current_thread()

    over_rows(threads, part, least=1)
    assert names[0] is threading.current_thread()
    assert len(set(names.values())) == threads


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_is_raised_once_no_part_runs_any_more(failing):
    torch.set_num_threads(2)
    other_goes_on, ended = threading.Event(), []

    def part(begin, _end):
        if begin == failing:
            other_goes_on.set()
            raise ArithmeticError(f"part {begin}")
        assert other_goes_on.wait(10)
        ended.append(begin)

    with pytest.raises(ArithmeticError, match=f"part {failing}"):
        over_rows(2, part, least=1)
    assert ended == [1 - failing]
