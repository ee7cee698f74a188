"""Pages of libraries that nobody reads any more.

Imports, and the compiler of loops, read far more of a library than is read again; all of it counts as memory of the
process. The system takes such pages back when memory is short, and not before.
"""

import ctypes
import mmap
import re
import struct
from functools import cache
from pathlib import Path

_IDLE_BYTES = 96 << 20
"""Pages of files that are worth the time, some 10 ms with what is mapped again."""
_LEAST_BYTES = 1 << 18
"""Of a mapping that is worth it. What is no longer than a page might be the relocated part of a segment that begins in
the same page of the file."""
_MAPPING = re.compile(r"(\w+)-(\w+) r-.p (\w+) \S+ \d+ +(/.*\.so[.\d]*)")
"""A line of /proc/self/maps: addresses, place in the file, and file of what can't be written to."""
_ELF64 = b"\x7fELF\x02\x01"
_HEADER, _SEGMENT = struct.Struct("<32xQ14xHH"), struct.Struct("<IIQQQQQQ")
_LOADED, _WRITABLE = 1, 2
"""A segment's type and flag in the System V ABI, chapter 5."""


def give_back_libraries() -> None:
    """Give back the pages of libraries, if they are many. What is read again is mapped from the system's file cache.

    Only whole segments that are never written to are given back, so no relocation can be lost. While a library is being
    loaded, all of it is mapped like its first segment for a moment; that is none of its segments, and stays.
    """
    if _bytes_of_files() < _IDLE_BYTES:
        return
    libc = ctypes.CDLL(None)
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if is_read_only(line):
            begin, end = (int(address, 16) for address in line.split()[0].split("-"))
            libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


def is_read_only(line: str) -> bool:
    """Whether a line of /proc/self/maps is of a library's segment that is never written to, and not a small one."""
    mapping = _MAPPING.fullmatch(line)
    if mapping is None:
        return False
    begin, end, place = (int(number, 16) for number in mapping.group(1, 2, 3))
    return end - begin >= _LEAST_BYTES and (place, end - begin) in _read_only_segments(mapping[4])


def _bytes_of_files() -> int:
    """Bytes of this process's memory that are pages of files."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[2]) * mmap.PAGESIZE


@cache
def _read_only_segments(path: str) -> frozenset[tuple[int, int]]:
    """Where in a library's file its segments begin that are never written to, and how long they are in memory."""
    try:
        table, size = _program_headers(Path(path))
    except OSError:
        return frozenset()
    segments = set()
    for entry in range(0, len(table) - _SEGMENT.size + 1, max(size, _SEGMENT.size)):
        kind, flags, place, address, _, length, _, _ = _SEGMENT.unpack_from(table, entry)
        if kind == _LOADED and not flags & _WRITABLE:
            before = address % mmap.PAGESIZE
            pages = -(-(before + length) // mmap.PAGESIZE)
            segments.add((place - before, pages * mmap.PAGESIZE))
    return frozenset(segments)


def _program_headers(path: Path) -> tuple[bytes, int]:
    """The table of a library's segments and the bytes of an entry; empty for what is no ELF file of 64 bits."""
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(_ELF64):
            return b"", 0
        first, size, count = _HEADER.unpack(header)
        file.seek(first)
        return file.read(size * count), size
