"""Fetch real English prose from Debian: six novels of Jane Austen, as a data set of passages.

Each line of the file is `{"text": <whole paragraphs, 2,000 to 2,500 characters>, "conversation": "<novel>-<number>"}`.
"""

import fcntl
import json
import lzma
import subprocess
import sys
import tempfile
import warnings
import zlib
from bz2 import decompress as bz2_decompress
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from saffron_dev.errors import DevError
from saffron_dev.paths import cache_folder
from saffron_dev.progress import say

_PACKAGE = "r-cran-janeaustenr"
_ENOUGH = 2_000
"""A passage ends with the paragraph that takes it to this many characters."""
_AT_MOST = 2_500

NOVELS = ("emma", "mansfieldpark", "northangerabbey", "persuasion", "prideprejudice", "sensesensibility")


def prose_file() -> Path:
    """Return the file of all passages, which exists once `fetch_prose` has run."""
    return cache_folder() / "data" / "austen.jsonl"


def novel_file(novel: str) -> Path:
    """Return the file of one novel's whole text, which exists once `fetch_prose` has run."""
    return cache_folder() / "data" / f"{novel}.txt"


def fetch_prose() -> Path:
    """Make the data set and the novels' text files unless they are there, and return the data set.

    Raises:
        DevError: apt can't fetch the package, or it does not hold the six novels.
    """
    target = prose_file()
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / ".austen.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_file():
            with tempfile.TemporaryDirectory(prefix=".austen-", dir=target.parent) as scratch:
                _make(target, Path(scratch))
    return target


def _make(target: Path, scratch: Path) -> None:
    novels = _novels(_download(scratch))
    lines = []
    for novel in NOVELS:
        text = "\n".join(novels[novel])
        (scratch / "novel").write_text(text)
        (scratch / "novel").rename(novel_file(novel))
        for number, passage in enumerate(passages(novels[novel])):
            lines.append(json.dumps({"text": passage, "conversation": f"{novel}-{number}"}, ensure_ascii=False))
    (scratch / "all").write_text("\n".join(lines) + "\n")
    (scratch / "all").rename(target)  # last: it says that all are there


def passages(lines: Sequence[str]) -> Iterator[str]:
    """Join a text's paragraphs, which blank lines part, into passages of 2,000 to 2,500 characters.

    A paragraph that would make a passage longer than that starts the next one, even when the passage is then short; the
    few passages that stay outside the range are left out.
    """
    gathered: list[str] = []
    size = 0
    for paragraph in [*_paragraphs(lines), ""]:
        if size + len(paragraph) > _AT_MOST or size >= _ENOUGH or not paragraph:
            if _ENOUGH <= size <= _AT_MOST:
                yield "\n\n".join(gathered)
            gathered, size = [], 0
        gathered.append(paragraph)
        size += len(paragraph) + len("\n\n")


def _paragraphs(lines: Sequence[str]) -> Iterator[str]:
    gathered: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            gathered.append(line.strip())
        elif gathered:
            yield " ".join(gathered)
            gathered = []


def _download(scratch: Path) -> Path:
    """Fetch and unpack the Debian package, and return its folder of R data."""
    say(f"Fetching {_PACKAGE} from Debian ...")
    _apt(["apt-get", "download", "-o", "APT::Sandbox::User=root", _PACKAGE], scratch)
    archives = list(scratch.glob(f"{_PACKAGE}_*.deb"))
    _apt(["dpkg", "-x", archives[0].name, "content"], scratch)
    return scratch / "content/usr/lib/R/site-library/janeaustenr/data"


def _apt(command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise DevError(f"{command[0]} is not on this machine; the prose comes from Debian's archive.") from error
    if done.returncode != 0:
        raise DevError(f"`{' '.join(command)}` failed; try `apt-get update` first:\n{done.stderr.strip()}")


def _novels(data: Path) -> dict[str, list[str]]:
    """Read R's lazy-load database: an index of (offset, length) and a file of compressed records."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reader does not know the index by its name's ending, but reads it
        import rdata  # noqa: PLC0415 - slow to import

        index = rdata.read_rds(data / "Rdata.rdx")["variables"]
    content = (data / "Rdata.rdb").read_bytes()
    novels = {}
    for name, (offset, length) in index.items():
        parsed: Any = rdata.parser.parse_data(_decompress(content[offset : offset + length]))
        novels[str(name)] = [str(line) for line in rdata.conversion.convert(parsed)]
    missing = [novel for novel in NOVELS if novel not in novels]
    if missing:
        raise DevError(f"{_PACKAGE} does not hold {', '.join(missing)}; another version of it is in the archive.")
    return novels


def _decompress(record: bytes) -> bytes:
    """A record is its length in 4 bytes, then a letter for the method (none: zlib) and the compressed bytes."""
    body = record[4:]
    if body[:1] == b"2":
        return bz2_decompress(body[1:])
    if body[:1] == b"Z":
        return lzma.decompress(body[1:])
    return zlib.decompress(body)


if __name__ == "__main__":
    try:
        print(fetch_prose())
    except DevError as error:
        sys.exit(f"error: {error}")
