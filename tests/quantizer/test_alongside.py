"""The threads beside the work: order, errors, and no more under way than is said."""

import subprocess
import sys
import threading

import pytest

from saffron_quantizer.alongside import ahead, begun, behind


class Gate:
    """Lets work begin only when it is told to, and counts what has begun."""

    def __init__(self):
        self.begun = []
        self.open = threading.Semaphore(0)

    def work(self, key):
        self.begun.append(key)
        assert self.open.acquire(timeout=10)
        return key * 10


@pytest.mark.parametrize("count", [0, 1, 5])
def test_results_come_in_the_order_of_their_keys(count):
    with ahead(lambda key: key * 10, range(count)) as results:
        assert list(results) == [key * 10 for key in range(count)]


def test_one_is_made_ahead_and_no_more():
    gate = Gate()
    with ahead(gate.work, range(4)) as results:
        gate.open.release()
        assert next(results) == 0
        gate.open.release()
        assert next(results) == 10
        gate.open.release()
    assert gate.begun == [0, 1, 2]


def test_an_error_is_raised_where_its_result_would_have_been():
    def make(key):
        if key == 1:
            raise OSError("the disk is gone")
        return key

    with ahead(make, range(3)) as results:
        assert next(results) == 0
        with pytest.raises(OSError, match="the disk is gone"):
            next(results)


def test_work_is_done_in_order_and_is_done_at_the_end():
    done = []
    with behind() as give:
        for number in range(5):
            give(lambda number=number: done.append(number))
    assert done == [0, 1, 2, 3, 4]


def test_a_second_piece_of_work_waits_for_the_first():
    gate = Gate()
    given = []
    with behind() as give:

        def give_both():
            for key in (1, 2):
                give(lambda key=key: gate.work(key))
                given.append(key)

        caller = threading.Thread(target=give_both)
        caller.start()
        caller.join(timeout=0.1)
        assert given == [1]
        gate.open.release(2)
        caller.join()
    assert gate.begun == [1, 2]


def fail():
    raise OSError("the disk is full")


def give_all(*works, then=None):
    with behind() as give:
        for work in works:
            give(work)
        if then is not None:
            raise then


def test_an_error_behind_is_raised_at_the_end():
    with pytest.raises(OSError, match="the disk is full"):
        give_all(fail)


def test_after_an_error_behind_nothing_more_is_done():
    done = []
    with pytest.raises(OSError, match="the disk is full"):
        give_all(fail, lambda: done.append(1))
    assert done == []


def test_the_callers_own_error_wins_over_one_behind():
    with pytest.raises(ValueError, match="no Cholesky factor"):
        give_all(fail, then=ValueError("no Cholesky factor"))


def test_what_is_begun_is_made_meanwhile_and_given_as_often_as_it_is_asked_for():
    gate = Gate()
    result = begun(lambda: gate.work(7))
    gate.open.release()
    assert [result(), result()] == [70, 70]
    assert gate.begun == [7]


def test_what_went_wrong_is_raised_where_the_result_is_asked_for():
    def fail():
        raise LookupError("no such thing")

    result = begun(fail)
    with pytest.raises(LookupError, match="no such thing"):
        result()


def test_a_process_does_not_wait_for_what_it_began():
    program = "import time; from saffron_quantizer.alongside import begun; begun(lambda: time.sleep(60))"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
