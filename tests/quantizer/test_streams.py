"""Standard streams that are closed, that nobody reads any more, or that have no room left."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SAFFRON = Path(sys.executable).with_name("saffron")
READER_GONE = 141
"""128 and the number of SIGPIPE, as a shell tells of commands that end by it."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def report(make_report, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(make_report().model_dump_json(by_alias=True))
    return path


def ended(shell, *places):
    """How a line of the shell ends whose words `saffron`, `$1`, `$2` and so on are the command and places."""
    script = f'saffron() {{ "{SAFFRON}" "$@"; }}; set -o pipefail; {shell}'
    return subprocess.run(
        ["bash", "-c", script, "bash", *map(str, places)], capture_output=True, text=True, check=False
    )


CLOSED = {"stderr": "2>&-", "all": "<&- >&- 2>&-"}


@pytest.mark.parametrize("closed", CLOSED.values(), ids=CLOSED)
def test_a_checkpoint_is_made_the_same_whatever_is_closed(closed, speaking_model, tmp_path):
    told = ended(
        f'saffron quantize --model "$1" --method rtn --scheme w8a8 --out "$2" --result "$3" {closed}',
        speaking_model,
        tmp_path / "out",
        tmp_path / "result",
    )
    assert (told.returncode, json.loads((tmp_path / "result").read_bytes())["stage"]) == (0, "quantize")
    # A closed stream's number goes to the next file that is opened, where words for people would spoil it.
    checked = ended('saffron generate --model "$1" --prompt w9 --max-new-tokens 1', tmp_path / "out")
    assert checked.returncode == 0, checked.stderr


NOBODY_READS = {
    "a table": ('saffron compare "$1" | true', READER_GONE),
    "text as it comes": ('saffron generate --model "$2" --prompt w9 --max-new-tokens 64 | true', READER_GONE),
    "a result": ('saffron inspect --model "$2" | true', READER_GONE),
    "progress, for which no work is given up": (
        'saffron quantize --model "$2" --method rtn --scheme w8a8 --out "$3" 2> >(true)',
        0,
    ),
}


@pytest.mark.parametrize(("shell", "code"), NOBODY_READS.values(), ids=NOBODY_READS)
def test_nobody_reads(shell, code, report, speaking_model, tmp_path):
    told = ended(shell, report, speaking_model, tmp_path / "out")
    assert (told.returncode, told.stderr.count("Traceback"), told.stderr.count("error:")) == (code, 0, 0)


@pytest.mark.parametrize(
    "shell",
    ['saffron compare "$1" > /dev/full', 'saffron inspect --model "$2" > /dev/full'],
    ids=["compare", "inspect"],
)
def test_a_result_that_has_no_room_is_told(shell, report, speaking_model):
    told = ended(shell, report, speaking_model)
    assert (told.returncode, told.stderr.splitlines()[:2]) == (
        1,
        ["error: Reading or writing standard-output failed.", "  why: No space left on device."],
    )
    assert "Traceback" not in told.stderr


def test_a_name_that_is_no_text_can_be_told(speaking_model, tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.symlink_to(speaking_model)
    told = ended('saffron quantize --model "$1" --method rtn --scheme w8a8 --out "$1/inside"', folder)
    assert (told.returncode, "Traceback" in told.stderr) == (10, False)
