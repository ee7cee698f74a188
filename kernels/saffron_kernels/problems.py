"""Every representative problem of every kernel of this package."""

import importlib
import pkgutil

import saffron_kernels
from saffron_kernels.problem import Problem

_SUFFIX = "_triton"


def problems() -> dict[str, Problem]:
    """The problems of every stem's `<stem>_triton` module by their names, stem by stem.

    Raises:
        ValueError: two problems have one name, or a module lists none.
    """
    found: dict[str, Problem] = {}
    for stem in stems():
        of_stem: tuple[Problem, ...] = importlib.import_module(f"saffron_kernels.{stem}{_SUFFIX}").PROBLEMS
        if not of_stem:
            raise ValueError(f"{stem}{_SUFFIX} lists no problem, so nothing would be compiled or measured of it")
        for problem in of_stem:
            if problem.name in found:
                raise ValueError(f"two problems are called {problem.name!r}")
            found[problem.name] = problem
    return found


def stems() -> list[str]:
    """The stems of ops that have a Triton kernel: those with a `<stem>` and a `<stem>_triton` module.

    A `_triton` module without the other holds what kernels share.
    """
    modules = {module.name for module in pkgutil.iter_modules(saffron_kernels.__path__)}
    return sorted(name for name in modules if name + _SUFFIX in modules)
