"""What one thread does beside the caller's: it makes what is needed next, or puts away what is finished.

Files are read and written there. What is computed is computed by the caller, in its order, so threads change no bit.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

Key = TypeVar("Key")
Made = TypeVar("Made")


@contextmanager
def ahead(make: Callable[[Key], Made], keys: Iterable[Key]) -> Iterator[Iterator[Made]]:
    """What `make` gives for each key, in their order, each made while the one before it is in use.

    One is made ahead and no more, and none is held here once it is given out. An error of `make` is raised where its
    result would have been given.
    """
    left = iter(keys)
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:

        def begun() -> list[Future[Made]]:
            return [thread.submit(make, key) for key in islice(left, 1)]

        def results() -> Iterator[Made]:
            coming = begun()
            while coming:
                made = [coming.pop().result()]
                coming = begun()
                yield made.pop()

        yield results()


@contextmanager
def behind() -> Iterator[Callable[[Callable[[], object]], None]]:
    """A function that takes pieces of work, which are done in their order while the caller goes on.

    At most one is under way: the next waits for it. An error of one is raised when the next is given, or at the end.
    """
    pending: list[Future[object]] = []
    with ThreadPoolExecutor(1, thread_name_prefix="behind") as thread:

        def give(work: Callable[[], object]) -> None:
            while pending:
                pending.pop().result()
            pending.append(thread.submit(work))

        yield give
        while pending:
            pending.pop().result()


def begun(make: Callable[[], Made]) -> Callable[[], Made]:
    """Begin to make something, and give the function that waits for it and gives it, or raises what went wrong.

    A process that ends, ends without waiting for it.
    """
    coming: Future[Made] = Future()

    def fulfil() -> None:
        try:
            coming.set_result(make())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where the result is asked for
            coming.set_exception(error)

    threading.Thread(target=fulfil, name="begun", daemon=True).start()
    return coming.result
