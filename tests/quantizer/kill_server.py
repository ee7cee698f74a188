"""Runs commands of `saffron`, each in a process forked from one that has imported all they need, and kills them.

Reads a line of JSON a run: {"argv": [...], "operation": N | null, "seconds": S | null}. The process kills itself with
SIGKILL before its N-th operation on files, or is killed S seconds after its start. Writes a line of JSON a run: its
exit status (-9 for a kill), the operations it did and the seconds it took.
"""

import json
import os
import signal
import sys
import threading
import time

# What the subcommands import only when they run; a fork takes it over.
import transformers.models.gemma3.modeling_gemma3
import transformers.models.llama.modeling_llama  # noqa: F401

import saffron_quantizer.data.sample
import saffron_quantizer.evaluation.baseline
import saffron_quantizer.evaluation.evaluate
import saffron_quantizer.evaluation.window
import saffron_quantizer.quantize  # noqa: F401
from saffron_quantizer.cli.main import main

OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "shutil.rmtree")
"""Audit events that change or read files."""


def run(argv: list[str], kill_before: int | None, counter: int) -> None:
    """Run one command in this process, which has just been forked, and end it."""
    done = 0

    def count(event: str, _: object) -> None:
        nonlocal done
        if event in OPERATIONS:
            done += 1
            os.pwrite(counter, done.to_bytes(8, "little"), 0)
            if done == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        main(argv)
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)


def serve() -> None:
    """Do what each line asks for."""
    for line in sys.stdin:
        asked = json.loads(line)
        counter = os.memfd_create("operations")
        begun = time.monotonic()
        child = os.fork()
        if child == 0:
            run(asked["argv"], asked["operation"], counter)
        timer = threading.Timer(asked["seconds"] or 0, os.kill, (child, signal.SIGKILL))
        if asked["seconds"] is not None:
            timer.start()
        _, status = os.waitpid(child, 0)
        timer.cancel()
        told = {
            "status": os.waitstatus_to_exitcode(status),
            "operations": int.from_bytes(os.pread(counter, 8, 0), "little"),
            "seconds": time.monotonic() - begun,
        }
        os.close(counter)
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
