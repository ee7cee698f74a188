"""How numba's cache knows that machine code is still right: by the content of what it was made of.

By itself numba looks at the time and size of the file that a loop is in. What the loop calls may be in another one, as
a tile's instructions are, and after a change there numba would go on with the code of before. So code is known by the
content of the loop's own file and of every file of this package. Times do not matter then: an image keeps them in
seconds only.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numba
from numba.core.caching import InTreeCacheLocator, UserProvidedCacheLocator, UserWideCacheLocator


@cache
def _digest(*files: Path) -> str:
    digests = (hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


@cache
def _digest_of_package() -> str:
    return _digest(*sorted(Path(__file__).parent.glob("*.py")))


class _ByContent:
    _py_file: str

    def get_source_stamp(self) -> tuple[str, str]:
        return _digest(Path(self._py_file)), _digest_of_package()


class Given(_ByContent, UserProvidedCacheLocator):
    """In NUMBA_CACHE_DIR."""


class BesideSource(_ByContent, InTreeCacheLocator):
    """In the sources' `__pycache__`."""


class OfUser(_ByContent, UserWideCacheLocator):
    """In the user's cache folder."""


_ONE_AT_A_TIME = threading.RLock()
_LOCATORS = ",".join(f"{__name__}.{locator.__name__}" for locator in (Given, BesideSource, OfUser))


@contextmanager
def known_by_content() -> Iterator[None]:
    """Let numba know by content what it is told to keep meanwhile; it takes the first place that can be written."""
    with _ONE_AT_A_TIME:  # what is set is the process's, so another thread would put it back too early, or for good
        before = numba.config.CACHE_LOCATOR_CLASSES
        numba.config.CACHE_LOCATOR_CLASSES = _LOCATORS
        try:
            yield
        finally:
            numba.config.CACHE_LOCATOR_CLASSES = before
