"""What a process gives back of its memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saffron_quantizer.cli import main as cli
from saffron_quantizer.memory import (
    Slabs,
    give_back_free_memory,
    keep_memory_small,
    own_mapping,
    reuse_memory,
)

MEBIBYTE = 1 << 20
PAGE = 4096
HEAPS_OF_THREADS = """
import threading
from saffron_quantizer.memory import share_one_heap

share_one_heap()
kept = []
threads = [threading.Thread(target=lambda: kept.append(bytes(100_000))) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
begins = [line.split() for line in open("/proc/self/maps")]
# glibc puts the heap of a thread at a multiple of 64 MiB.
print(sum(int(ends.split("-")[0], 16) % (64 << 20) == 0 for ends, access, *_ in begins if access == "rw-p"))
"""

HOLES = """
import ctypes, json
from pathlib import Path
from saffron_quantizer.memory import give_back_idle_memory

def resident():
    fields = Path("/proc/self/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * 4096

ctypes.CDLL(None).mallopt(-3, 1 << 30)
gone = []
for count in (20, 100):
    pieces = [bytearray(b"1") * (1 << 20) for _ in range(count)]
    last = bytearray(1 << 16)  # behind them in the heap
    del pieces
    before = resident()
    give_back_idle_memory()
    gone.append((resident() - before) >> 20)
print(json.dumps(gone))
"""


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def test_a_process_goes_on_after_it_gave_memory_back():
    kept = [bytes([number]) * 100_000 for number in range(100)]
    keep_memory_small()
    reuse_memory()
    give_back_free_memory()
    assert [piece[-1] for piece in kept] == list(range(100))


def test_a_mapping_is_zero_and_goes_back_when_nothing_refers_to_it():
    size = 64 * MEBIBYTE
    before = resident()
    mapping = own_mapping(size)
    assert mapping[:: MEBIBYTE // 16] == bytes(1024)
    mapping.write(bytes([1]) * size)
    assert resident() - before > 60 * MEBIBYTE
    del mapping
    # Python keeps some of what else was made here.
    assert resident() - before < 4 * MEBIBYTE


def test_a_slab_is_taken_again_when_nothing_refers_to_it_any_more():
    slabs = Slabs()
    first = torch.frombuffer(slabs.take(5 * MEBIBYTE), dtype=torch.uint8)
    place, part = first.data_ptr(), first[:8].view(torch.float32)
    del first
    assert torch.frombuffer(slabs.take(5 * MEBIBYTE), dtype=torch.uint8).data_ptr() != place
    del part
    assert torch.frombuffer(slabs.take(5 * MEBIBYTE), dtype=torch.uint8).data_ptr() == place


@pytest.mark.parametrize(
    ("wanted", "given"),
    [(1, 4), (2 * MEBIBYTE, 4), (2 * MEBIBYTE + 1, 3), (5 * MEBIBYTE, 5), (5 * MEBIBYTE + 1, 6)],
)
def test_small_things_share_a_slab_and_a_large_one_has_its_own(wanted, given):
    assert len(Slabs().take(wanted)) == given * MEBIBYTE


def test_a_hole_in_the_heap_is_given_back_if_it_is_large():
    told = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    small, large = json.loads(told.stdout)
    assert -8 < small < 8
    assert large < -80


def test_threads_have_no_heaps_of_their_own():
    told = subprocess.run([sys.executable, "-c", HEAPS_OF_THREADS], capture_output=True, text=True, check=True)
    assert told.stdout == "0\n"


def test_the_heap_is_shared_before_the_first_thread_begins(monkeypatch, capsys):
    called = []
    for name in ("share_one_heap", "end_at_sigterm"):
        monkeypatch.setattr(cli, name, lambda name=name: called.append(name))
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    capsys.readouterr()
    assert called == ["share_one_heap", "end_at_sigterm"]
