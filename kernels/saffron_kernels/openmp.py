"""Compiled loops on the threads of torch.

Torch keeps a pool of OpenMP threads. A second pool beside it would have more threads than there are processors, and
Python's own takes longer to wake than a small product takes. So a loop is compiled to a C function, and
`GOMP_parallel`, which every OpenMP runtime has for code that GCC compiled, starts it in torch's threads.
"""

# numba and llvmlite have no types for mypy. An intrinsic's parameters are named for its callers; their values come to
# `codegen`.
# ruff: noqa: ANN401, ARG001

import ctypes
import warnings
from array import array
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

import numba
import torch
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from saffron_kernels.code_cache import known_by_content
from saffron_kernels.compiled import LOOPS, AheadOfTime

_LINE = 16
"""Integers in two lines of the cache, since processors fetch the neighbour of a line along with it."""
ITEM, SECOND_ITEM, ITEMS, FIRST = 0, _LINE, 2 * _LINE, 2 * _LINE + 1
"""Where a loop finds what, among integers of 64 bits: the next item (`take`), the next one of a second count, from 0 as
well, for loops that go twice over something, the number of items, then what the caller gave. What threads count with
lies in lines of its own, since each takes such a line away from the others."""
_GIVEN = 32
ARGUMENTS = ITEMS + _GIVEN
"""How many there are at the most."""
OPEN = 4
"""How many arguments a prepared loop is given only when it is started."""
_I32, _I64 = ir.IntType(32), ir.IntType(64)


Body: TypeAlias = Callable[[Any], None]
"""A loop before it is compiled."""


Start: TypeAlias = Callable[[int, int, int, int], None]
"""A loop with all its arguments but the first `OPEN`."""


class Loop(NamedTuple):
    """A compiled loop.

    Attributes:
        address: it, for OpenMP to call.
        owner: what keeps its machine code.
    """

    address: int
    owner: Any


def ahead_of_time(*needs: str) -> Callable[[Body], Body]:
    """Have `precompile` compile a loop, too.

    Args:
        needs: see `AheadOfTime`.
    """

    def register(body: Body) -> Body:
        LOOPS.append(AheadOfTime(lambda: compile_loop(body), needs))
        return body

    return register


@cache
def compile_loop(body: Body) -> Loop:
    """Compile a loop for `run`, once in a process. Numba keeps the machine code in its cache folder.

    Args:
        body: given the address of the arguments. Each thread runs it once, and it takes items (`take`) until none are
            left.
    """
    with known_by_content():
        # fastmath stays off: it would let the compiler round otherwise than the reference.
        compiled = numba.cfunc(numba.types.void(numba.types.voidptr), cache=True)(body)
    return Loop(compiled.address, compiled)


def run(loop: Loop, items: int, *arguments: int) -> None:
    """Do all items of a compiled loop in torch's threads.

    Args:
        loop: from `compile_loop`.
        items: how many there are.
        arguments: addresses and numbers; the loop finds them from `FIRST` on.
    """
    data = _array(items, *arguments)
    parallel, starter, _ = _starter()
    first = (*arguments, *[0] * OPEN)[:OPEN]
    starter(parallel, loop.address, data.buffer_info()[0], len(data), torch.get_num_threads(), *first)


def prepare(loop: Loop, items: int, *arguments: int) -> tuple[Start, "array[int]"]:
    """Make ready what `run` does again and again with the same arguments but for the first `OPEN`.

    Args:
        loop: as for `run`.
        items: as there.
        arguments: those from `FIRST` + `OPEN` on.

    Returns:
        What does all items, given the first arguments, in as many threads as torch has now; calls may overlap. And
        the memory from which it reads the other ones, which must be kept as long.
    """
    data = _array(items, *[0] * OPEN, *arguments)
    parallel, starter, _ = _starter()
    address, count = data.buffer_info()
    return partial(starter, parallel, loop.address, address, count, torch.get_num_threads()), data


def _array(*given: int) -> "array[int]":
    if len(given) > _GIVEN:
        raise ValueError(f"a loop takes {_GIVEN - 1} arguments at the most, not {len(given) - 1}")
    return array("q", given)  # ctypes takes twice as long to make one


@cache
def barrier() -> int:
    """The address for `wait`; 0 where compiled loops run in one thread."""
    return _address_of("GOMP_barrier") if _gomp_parallel() else 0


@cache
def _gomp_parallel() -> int:
    """The address of OpenMP's function; 0 where there is none."""
    address = _address_of("GOMP_parallel")
    if not address:
        warnings.warn("torch's OpenMP has no GOMP_parallel, so compiled loops run in one thread", stacklevel=4)
    return address


def _address_of(name: str) -> int:
    try:
        function = getattr(ctypes.CDLL(None), name)
    except AttributeError:
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0


class _Starter(NamedTuple):
    """What starts a loop, compiled for Python to call, which takes a third of the time of a call by ctypes.

    Attributes:
        parallel: the address of OpenMP's function, 0 where there is none.
        start: `_start`.
        owner: what keeps its machine code.
    """

    parallel: int
    start: Callable[..., None]
    owner: Any


@cache
def _starter() -> _Starter:
    with known_by_content():
        signature = numba.types.void(*[numba.types.int64] * (5 + OPEN))
        owner = numba.njit(signature, nogil=True, cache=True)(_start)
    return _Starter(_gomp_parallel(), owner.overloads[signature.args].entry_point, owner)


LOOPS.append(AheadOfTime(_starter))


def _start(  # noqa: PLR0917 - a compiled function has positional parameters only
    parallel: int, loop: int, data: int, count: int, threads: int, a: int, b: int, c: int, d: int
) -> None:
    """Run a loop in up to so many threads with a copy of its arguments but for the first ones, which are given."""
    _run_parallel(parallel, loop, _copy(data, count, a, b, c, d), threads)


@intrinsic
def _copy(  # noqa: PLR0917 - as above
    _: Any, data: Any, count: Any, a: Any, b: Any, c: Any, d: Any
) -> Any:
    """The address of what a loop reads, on the stack of the function that asks for it."""

    def codegen(_context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        data, count, *first = values
        copy = cgutils.alloca_once(builder, ir.ArrayType(_I64, ARGUMENTS))
        copy.align = _LINE * 8
        places = builder.bitcast(copy, _I64.as_pointer())

        def place(number: int) -> ir.Value:
            return builder.gep(places, [ir.Constant(_I64, number)])

        cgutils.raw_memcpy(builder, place(ITEMS), builder.inttoptr(data, _I64.as_pointer()), count, 8)
        nothing = ir.Constant(_I64, 0)
        for number, value in ((ITEM, nothing), (SECOND_ITEM, nothing), *enumerate(first, FIRST)):
            builder.store(value, place(number))
        return builder.ptrtoint(copy, _I64)

    return numba.types.int64(*[numba.types.int64] * (2 + OPEN)), codegen


@intrinsic
def _run_parallel(_: Any, parallel: Any, loop: Any, data: Any, threads: Any) -> Any:
    """Run a loop by OpenMP's function; in this thread, if there is none or need not be another."""

    def codegen(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        parallel, loop, data, threads = values
        items = builder.load(builder.inttoptr(builder.add(data, ir.Constant(_I64, 8 * ITEMS)), _I64.as_pointer()))
        threads = builder.select(builder.icmp_signed("<", items, threads), items, threads)
        there = builder.icmp_signed("!=", parallel, ir.Constant(_I64, 0))
        several = builder.and_(there, builder.icmp_signed(">", threads, ir.Constant(_I64, 1)))
        with builder.if_else(several) as (then, otherwise):
            with then:
                function = ir.FunctionType(ir.VoidType(), [_I64, _I64, _I32, _I32]).as_pointer()
                number = builder.trunc(threads, _I32)
                builder.call(builder.inttoptr(parallel, function), [loop, data, number, ir.Constant(_I32, 0)])
            with otherwise:
                function = ir.FunctionType(ir.VoidType(), [_I64]).as_pointer()
                builder.call(builder.inttoptr(loop, function), [data])
        return context.get_dummy_value()

    return numba.types.void(*[numba.types.int64] * 4), codegen


@intrinsic
def take(_: Any, arguments: Any) -> Any:
    """The number of the next item, which no other thread gets. Beyond `ITEMS`: all are taken."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        counter = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.atomic_rmw("add", counter, ir.Constant(ir.IntType(64), 1), "monotonic")

    return numba.types.int64(arguments), codegen


@intrinsic
def wait(_: Any, barrier: Any) -> Any:
    """Wait in a loop until all of its threads are there.

    Args:
        barrier: an address from the function of that name.
    """

    def codegen(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        some = builder.icmp_signed("!=", values[0], ir.Constant(ir.IntType(64), 0))
        with builder.if_then(some):
            function = ir.FunctionType(ir.VoidType(), []).as_pointer()
            builder.call(builder.inttoptr(values[0], function), [])
        return context.get_dummy_value()

    return numba.types.void(numba.types.int64), codegen
