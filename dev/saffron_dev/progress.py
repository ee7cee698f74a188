"""Run one slow command with its elapsed time on the screen and its output in a file."""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from saffron_dev.errors import DevError

_QUIET_SECONDS = 60
_TAIL_LINES = 20


def say(message: str) -> None:
    """Print one line for the person who waits, on standard error so that output can be piped."""
    print(message, file=sys.stderr, flush=True)


def run_logged(
    label: str,
    command: Sequence[str],
    *,
    log: Path,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a command to its end, showing for how long it has been running.

    Args:
        label: What is being done, as a person would say it.
        command: The program and its arguments.
        log: File that gets the command's output; it is written anew.
        folder: Working folder.
        environment: The whole environment of the command, or None for our own.

    Raises:
        DevError: The command failed; the message holds the end of its output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            _wait(process, label, begun)
        except BaseException:
            process.kill()
            process.wait()
            raise
    seconds = time.monotonic() - begun
    if process.returncode != 0:
        raise DevError(
            f"{label} failed after {seconds:.0f} s with exit code {process.returncode}. The end of {log}:\n{tail(log)}"
        )
    _clear_line()
    say(f"{label}: {seconds:.0f} s")


def tail(log: Path, lines: int = _TAIL_LINES) -> str:
    """Return the last lines of a log, indented, or a note that it is empty."""
    text = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
    return "\n".join(f"    {line}" for line in text) or "    (nothing was printed)"


def _wait(process: "subprocess.Popen[bytes]", label: str, begun: float) -> None:
    """Wait for the process; a terminal sees every second, a log one line a minute."""
    terminal = sys.stderr.isatty()
    said = begun
    while True:
        try:
            process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            now = time.monotonic()
            if terminal:
                print(f"\r{label} ... {now - begun:.0f} s", end="", file=sys.stderr, flush=True)
            elif now - said >= _QUIET_SECONDS:
                said = now
                say(f"{label} ... {now - begun:.0f} s")
        else:
            return


def _clear_line() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
