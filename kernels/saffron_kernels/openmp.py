"""Compiled loops on the threads of torch.

Torch keeps a pool of OpenMP threads. A second pool beside it would have more threads than there are processors, and
Python's own takes longer to wake than a small product takes. So a loop is compiled to a C function, and
`GOMP_parallel`, which every OpenMP runtime has for code that GCC compiled, starts it in torch's threads.
"""

# numba and llvmlite have no types for mypy.
# ruff: noqa: ANN401

import ctypes
import warnings
from array import array
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numba
import torch
from llvmlite import ir
from numba.extending import intrinsic

from saffron_kernels.code_cache import known_by_content
from saffron_kernels.compiled import LOOPS, AheadOfTime

ARGUMENTS = 32
"""The most integers of 64 bits that a loop is given: the next item, the number of items, then what the caller gave."""
ITEM, ITEMS, FIRST = 0, 1, 2


Arguments: TypeAlias = "array[int]"
"""What a loop is given, in the memory from which it reads it."""


Body: TypeAlias = Callable[[Any], None]
"""A loop before it is compiled."""


class Loop(NamedTuple):
    """A compiled loop.

    Attributes:
        function: it, for Python to call.
        address: it, for OpenMP to call.
        owner: what keeps its machine code.
    """

    function: Callable[[int], None]
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
    return Loop(compiled.ctypes, compiled.address, compiled)


def run(loop: Loop, items: int, *arguments: int) -> None:
    """Do all items of a compiled loop in torch's threads.

    Args:
        loop: from `compile_loop`.
        items: how many there are.
        arguments: addresses and numbers; the loop finds them from `FIRST` on.
    """
    start(loop, arguments_of(items, *arguments))


def arguments_of(items: int, *arguments: int) -> Arguments:
    """What `start` takes, for one call; a copy serves another."""
    return array("q", (0, items, *arguments))  # ctypes takes twice as long to make one


def start(loop: Loop, arguments: Arguments) -> None:
    """As `run`, with arguments that are ready. The loop counts its items in them."""
    address = arguments.buffer_info()[0]
    threads = min(torch.get_num_threads(), arguments[ITEMS])
    if threads > 1 and (parallel := _gomp_parallel()) is not None:
        parallel(loop.address, address, threads, 0)
    else:
        loop.function(address)


@cache
def barrier() -> int:
    """The address for `wait`; 0 where compiled loops run in one thread."""
    if _gomp_parallel() is None:
        return 0
    function = ctypes.cast(ctypes.CDLL(None).GOMP_barrier, ctypes.c_void_p).value
    return function or 0


@cache
def _gomp_parallel() -> Any:
    try:
        function = ctypes.CDLL(None).GOMP_parallel
    except AttributeError:
        warnings.warn("torch's OpenMP has no GOMP_parallel, so compiled loops run in one thread", stacklevel=4)
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    function.restype = None
    return function


@intrinsic
def take(_: Any, arguments: Any) -> Any:
    """The number of the next item, which no other thread gets. Beyond `ITEMS`: all are taken."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        counter = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.atomic_rmw("add", counter, ir.Constant(ir.IntType(64), 1), "monotonic")

    return numba.types.int64(arguments), codegen


@intrinsic
def wait(_: Any, barrier: Any) -> Any:  # noqa: ARG001 - its value comes to `codegen`
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
