"""Keep a group of programs alive together, and end them together, whatever happens to who asked for them.

Run as `python -m saffron_dev.supervise PLAN PARENT_PID`. The programs of the plan are started in order, each
when the one before it is ready; then one line of JSON goes to standard output. They all end when this process
is told to stop (SIGTERM, SIGINT), when the parent ends in whatever way, or when one of them ends. If this process is
killed with SIGKILL, the kernel kills its children, for each has asked for that.
"""

import ctypes
import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from saffron_dev.progress import tail

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 10

# Loaded before any fork: between fork and exec it is not safe to load a library.
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Program:
    """One program of a plan."""

    name: str
    command: tuple[str, ...]
    ready: str | None = None
    """An address that answers 200 once the program is up; None where nobody needs to wait for it."""
    ready_within: float = 120
    """Seconds."""


@dataclass(frozen=True)
class Plan:
    """What to start, in which order, and where its output goes."""

    folder: str
    """Each program writes to FOLDER/log/NAME.log."""
    programs: tuple[Program, ...]
    remove_folder: bool = False
    """Whether the folder goes when the programs have ended."""

    def to_json(self) -> str:
        """Return the plan as the supervisor reads it."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Plan":
        """Read what `to_json` wrote."""
        raw = json.loads(text)
        programs = tuple(Program(**{**item, "command": tuple(item["command"])}) for item in raw["programs"])
        return Plan(folder=raw["folder"], programs=programs, remove_folder=raw["remove_folder"])


class ProgramEndedError(Exception):
    """A program of the plan ended by itself, or was not ready in time."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name} {what}")
        self.name = name


class StoppedError(Exception):
    """A signal, or the end of the parent, asked for the end."""


class Group:
    """The running programs of one plan."""

    def __init__(self, folder: Path, stopped: Callable[[], bool]) -> None:
        self._log_folder = folder / "log"
        self._stopped = stopped
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, program: Program) -> None:
        """Start a program and return when it is ready.

        Raises:
            ProgramEndedError: It, or one that was started before, ended; or it was not ready in time.
            StoppedError: The end was asked for in the meantime.
        """
        self._log_folder.mkdir(parents=True, exist_ok=True)
        with (self._log_folder / f"{program.name}.log").open("wb") as log:
            self._running[program.name] = subprocess.Popen(
                program.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is ours to pass on, in the right order
                preexec_fn=die_with_parent,  # noqa: PLW1509 - no thread was ever started in this process
            )
        deadline = time.monotonic() + program.ready_within
        while program.ready is not None and not _answers(program.ready):
            self.check()
            if self._stopped():
                raise StoppedError
            if time.monotonic() > deadline:
                raise ProgramEndedError(program.name, f"was not ready within {program.ready_within:.0f} s")
            time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Check that every program still runs.

        Raises:
            ProgramEndedError: One has ended.
        """
        for name, process in self._running.items():
            code = process.poll()
            if code is not None:
                raise ProgramEndedError(name, f"ended by itself with exit code {code}")

    def stop(self) -> None:
        """End the programs, the one that was started last first."""
        for process in reversed(self._running.values()):
            process.terminate()
            try:
                process.wait(timeout=_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()


def supervise(plan: Plan, parent: int) -> int:
    """Carry out a plan until someone or something ends it; returns the exit code."""
    folder = Path(plan.folder)
    group = Group(folder, stopped=lambda: _is_orphan(parent))
    try:
        for program in plan.programs:
            group.start(program)
        report({"ready": True})
        while not _is_orphan(parent):
            group.check()
            time.sleep(_POLL_SECONDS)
    except ProgramEndedError as error:
        report({"failed": f"{error}. The end of its log:\n{tail(folder / 'log' / f'{error.name}.log')}"})
        return 1
    except StoppedError:
        return 0
    finally:
        # A second signal must not interrupt the end.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        group.stop()
        if plan.remove_folder:
            shutil.rmtree(folder)
    return 0


def _is_orphan(parent: int) -> bool:
    """Tell whether the parent has ended: then the kernel has given this process another one."""
    return os.getppid() != parent


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends; for use between fork and exec."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _answers(address: str) -> bool:
    """Tell whether the address answers 200; any certificate will do, for nothing secret is sent or believed."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # No proxy: what a person's proxy answers says nothing about a program on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(address, timeout=2) as answer:
            return bool(answer.status == 200)  # noqa: PLR2004 - OK
    except (OSError, http.client.HTTPException):  # refused, timed out, or an HTTP error such as 503: not yet
        return False


def report(message: dict[str, object]) -> None:
    """Print one line of JSON for who started this process."""
    try:
        print(json.dumps(message), flush=True)
    except BrokenPipeError:  # who asked is gone, and the end follows from that
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _stop(_signal: int, _frame: object) -> NoReturn:
    raise StoppedError


def main() -> int:
    """Run the plan in the file that the first argument names, for the process that the second one names."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    return supervise(Plan.from_json(Path(sys.argv[1]).read_text()), int(sys.argv[2]))


if __name__ == "__main__":
    sys.exit(main())
