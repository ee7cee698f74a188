"""What a process gives back of its memory."""

from saffron_quantizer.memory import (
    _unchanged_mappings,
    give_back_free_memory,
    give_back_library_pages,
    keep_memory_small,
)

SMAPS = """\
1000-3000 r-xp 00000000 08:01 11 /lib/code.so
Rss:                   8 kB
Anonymous:             0 kB
3000-4000 r--p 00002000 08:01 11 /lib/relocated.so
Anonymous:             4 kB
4000-5000 rw-p 00003000 08:01 11 /lib/data.so
Anonymous:             0 kB
5000-6000 r--s 00000000 08:01 12 /shared
Anonymous:             0 kB
6000-7000 r--p 00000000 00:00 0
Anonymous:             0 kB
7000-8000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
9000-a000 r--p 00000000 08:01 13 /lib/with a space.so
Anonymous:             0 kB
"""


def test_only_private_read_only_mappings_that_are_as_in_their_file_are_let_go(tmp_path):
    (tmp_path / "smaps").write_text(SMAPS)
    assert list(_unchanged_mappings(tmp_path / "smaps")) == [(0x1000, 0x3000), (0x9000, 0xA000)]


def test_a_process_goes_on_after_it_gave_memory_back():
    kept = [bytes([number]) * 100_000 for number in range(100)]
    keep_memory_small()
    give_back_free_memory()
    give_back_library_pages()
    assert [piece[-1] for piece in kept] == list(range(100))
