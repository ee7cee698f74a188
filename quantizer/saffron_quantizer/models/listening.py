"""What a module is called with, without running what comes after it."""

from collections.abc import Callable
from typing import Any

from torch import nn


class _EnoughError(Exception):
    """The module that is listened to has been reached; the rest need not run."""


def first_call(module: nn.Module, run: Callable[[], object]) -> tuple[Any, ...]:
    """The arguments with which a module is called first while something runs; the run ends there.

    Raises:
        RuntimeError: it is never called.
    """
    heard: list[tuple[Any, ...]] = []

    def listen(_: nn.Module, args: tuple[Any, ...]) -> None:
        heard.append(args)
        raise _EnoughError

    handle = module.register_forward_pre_hook(listen)
    try:
        run()
    except _EnoughError:
        return heard[0]
    finally:
        handle.remove()
    raise RuntimeError(f"{type(module).__name__} is never called; the table of architectures is wrong")
