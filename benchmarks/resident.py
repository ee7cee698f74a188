"""Whose the memory of a program is when it has the most.

    python benchmarks/resident.py saffron quantize --model ... --out ...

Looks at the program ten times a second until it ends, adds up the pages that are in memory by the file that they are
of, and prints the largest sum's table. To look takes the program no time, and what comes and goes between two looks is
not seen: the peak that the kernel counted is printed beside it.
"""

import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

OWNERS = {
    "/nvidia/": "CUDA's libraries",
    "/torch/": "torch's libraries",
    "llvmlite": "LLVM",
    "/": "other files",
    "[heap]": "heap",
}
"""By a part of a mapping's name; the first that fits."""
REST = "mappings: weights that were read, Python's objects"

_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ *(.*)")
_LOOKS_A_SECOND = 10


def resident(process: int) -> Counter[str]:
    """Resident kB of a process by owner; empty when it has ended."""
    found: Counter[str] = Counter()
    name, end = "", ""
    try:
        lines = Path(f"/proc/{process}/smaps").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        if mapping := _MAPPING.fullmatch(line):
            # What a library sets to zero lies right behind its file, without a name.
            follows = mapping[1] == end and ".so" in name
            name, end = mapping[3] or (name if follows else ""), mapping[2]
        elif line.startswith("Rss:"):
            found[next((owner for part, owner in OWNERS.items() if part in name), REST)] += int(line.split()[1])
    return found


def main() -> None:
    """Run a program and print the table."""
    program = subprocess.Popen(sys.argv[1:])
    most: Counter[str] = Counter()
    peak = ""
    while program.poll() is None:
        found = resident(program.pid)
        most = max(most, found, key=Counter.total)
        peak = _peak(program.pid) or peak
        time.sleep(1 / _LOOKS_A_SECOND)
    print(f"\n{most.total() * 1.024e-3:6.0f} MB at the most (the kernel: {peak})")
    for owner, size in most.most_common():
        print(f"{size * 1.024e-3:6.0f} MB {owner}")


def _peak(process: int) -> str:
    """The kernel's own largest resident set of a process, as it tells it."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":")[1].strip() for line in lines if line.startswith("VmHWM")), "")


if __name__ == "__main__":
    main()
