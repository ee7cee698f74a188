"""Every item is done, once, by however many threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numba import carray

from saffron_kernels import openmp
from saffron_kernels.compiled_floats import pointer
from saffron_kernels.openmp import FIRST, ITEMS, SECOND_ITEM, take, wait


def count(data):
    """Add the given number to the place of each item."""
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    places = carray(pointer(a[FIRST]), (a[ITEMS],), np.int64)
    item = take(a)
    while item < a[ITEMS]:
        places[item] += a[FIRST + 1]
        item = take(a)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("items", [0, 1, 3, 1000])
def test_every_item_is_done_once(items, threads):
    loop, places = openmp.compile_loop(count), torch.zeros(items, dtype=torch.int64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        openmp.run(loop, items, places.data_ptr(), 7)
    finally:
        torch.set_num_threads(before)
    assert places.tolist() == [7] * items


def add_first_and_last(data):
    """Add the first argument and the one after the open ones to the place of each item; the second is their address."""
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    places = carray(pointer(a[FIRST + 1]), (a[ITEMS],), np.int64)
    item = take(a)
    while item < a[ITEMS]:
        places[item] += a[FIRST] + a[FIRST + openmp.OPEN]
        item = take(a)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_prepared_loop_does_every_item_at_each_start_with_what_that_start_gave(threads):
    first, second = torch.zeros(100, dtype=torch.int64), torch.zeros(100, dtype=torch.int64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        start, _owner = openmp.prepare(openmp.compile_loop(add_first_and_last), 100, 7)
        start(10, first.data_ptr(), 0, 0)
        start(20, second.data_ptr(), 0, 0)
        start(30, first.data_ptr(), 0, 0)
    finally:
        torch.set_num_threads(before)
    assert (first.tolist(), second.tolist()) == ([54] * 100, [27] * 100)


def test_a_prepared_loop_serves_several_threads_of_python_at_once():
    start, _owner = openmp.prepare(openmp.compile_loop(add_first_and_last), 2000, 7)
    places = [torch.zeros(2000, dtype=torch.int64) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda each: [start(1, each.data_ptr(), 0, 0) for _ in range(50)], places))
    assert [each.unique().tolist() for each in places] == [[400]] * 8


def test_more_arguments_than_a_loop_can_read_are_refused():
    with pytest.raises(ValueError, match=r"a loop takes 31 arguments at the most, not 32"):
        openmp.run(openmp.compile_loop(count), 1, *range(32))


def test_without_the_function_of_openmp_one_thread_does_all_and_it_is_said(monkeypatch):
    class NoSymbols:
        def __init__(self, name):
            pass

    monkeypatch.setattr(openmp.ctypes, "CDLL", NoSymbols)
    openmp._gomp_parallel.cache_clear()
    openmp._starter.cache_clear()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    places = torch.zeros(5, dtype=torch.int64)
    try:
        with pytest.warns(UserWarning, match="GOMP_parallel, so compiled loops run in one thread"):
            openmp.run(openmp.compile_loop(count), 5, places.data_ptr(), 1)
    finally:
        torch.set_num_threads(before)
        openmp._gomp_parallel.cache_clear()
        openmp._starter.cache_clear()
    assert places.tolist() == [1] * 5


def count_and_copy(data):
    """Count the items, and when all threads are done with that, write the count to each item's place."""
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    places = carray(pointer(a[FIRST]), (a[ITEMS],), np.int64)
    counts = carray(pointer(a[FIRST + 1]), (a[ITEMS],), np.int64)
    item = take(a)
    while item < a[ITEMS]:
        counts[item] = 1
        item = take(a)
    wait(a[FIRST + 2])
    item = take(a[SECOND_ITEM:])
    while item < a[ITEMS]:
        places[item] = counts.sum()
        item = take(a[SECOND_ITEM:])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_no_thread_goes_on_before_all_are_there(threads):
    loop = openmp.compile_loop(count_and_copy)
    places, counts = torch.zeros(200, dtype=torch.int64), torch.zeros(200, dtype=torch.int64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        openmp.run(loop, 200, places.data_ptr(), counts.data_ptr(), openmp.barrier())
    finally:
        torch.set_num_threads(before)
    assert places.tolist() == [200] * 200


def test_a_loop_that_is_to_be_compiled_ahead_is_among_those_that_precompile_knows(monkeypatch):
    monkeypatch.setattr(openmp, "LOOPS", [])
    assert openmp.ahead_of_time("avx2")(count) is count
    (loop,) = openmp.LOOPS
    assert loop.needs == ("avx2",)
    assert loop.compile() is openmp.compile_loop(count)
