"""What a process gives back of the libraries that it has loaded."""

import json
import subprocess
import sys

import pytest

from saffron_quantizer.libraries import _read_only_segments

GIVEN_BACK = """
import json
import numba
import torch
import saffron_quantizer.quantize
from saffron_quantizer import libraries

def mappings():
    found, number = {}, None
    for line in open("/proc/self/smaps"):
        if "-" in line.split()[0]:
            number = line.strip()
            found[number] = {}
        else:
            name, _, amount = line.partition(":")
            found[number][name] = amount
    return found

x = torch.ones(300, 300)
expected = x @ x
before, written = libraries._bytes_of_files(), 0
for line, amounts in mappings().items():
    if libraries.is_read_only(line):
        written += int(amounts["Anonymous"].split()[0])
libraries.give_back_libraries()
after = libraries._bytes_of_files()
assert torch.equal(x @ x, expected)
assert torch.nn.functional.softmax(torch.zeros(2, 2), dim=1).tolist() == [[0.5, 0.5]] * 2
assert numba.njit(lambda n: n + 1)(1) == 2
print(json.dumps({"before": before >> 20, "after": after >> 20, "written": written}))
"""


def test_most_pages_are_given_back_none_that_was_written_to_and_all_goes_on():
    done = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["before"] > 150
    assert told["after"] < 60
    assert told["written"] == 0


FEW = """
from saffron_quantizer import libraries

before = libraries._bytes_of_files()
libraries.give_back_libraries()
assert libraries._bytes_of_files() >= before
"""


def test_few_pages_are_left_alone():
    subprocess.run([sys.executable, "-c", FEW], check=True)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x7fELF\x02\x01", b"MZ" * 100, b"\x7fELF\x01\x01" + bytes(100), b"\x7fELF\x02\x01" + bytes(100)],
    ids=["empty", "cut off", "of another format", "of 32 bits", "without segments"],
)
def test_a_file_that_is_no_library_has_no_segments(content, tmp_path):
    (tmp_path / "file.so").write_bytes(content)
    assert _read_only_segments(str(tmp_path / "file.so")) == frozenset()


def test_a_file_that_is_gone_has_no_segments(tmp_path):
    assert _read_only_segments(str(tmp_path / "gone.so")) == frozenset()
