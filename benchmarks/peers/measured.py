"""Run a program to its end and tell what it took: RESULT.json PROGRAM [ARGUMENT...].

It is small itself, and nothing else runs in it. Until a child starts its own program, the kernel counts as the child's
what its parent had in memory, so a large parent's children would all seem to be as large.
"""

import json
import os
import sys
import time
from pathlib import Path

result, *command = sys.argv[1:]
begun = time.monotonic()
_, status, usage = os.wait4(os.posix_spawn(command[0], command, os.environ), 0)
told = {
    "code": os.waitstatus_to_exitcode(status),
    "seconds": time.monotonic() - begun,
    "cpu_seconds": usage.ru_utime + usage.ru_stime,
    "peak_bytes": usage.ru_maxrss * 1024,
}
Path(result).write_text(json.dumps(told))
