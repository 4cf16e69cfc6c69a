"""Running programs: time limit, capped output, the whole process group ended, orphans findable.

A program gets a session of its own; at its end, or its limit, the group gets SIGTERM and after a
grace period SIGKILL. Every living child is entered in a ledger folder, so that after the death of
its worker the next one can sweep it. A daemon that leaves the session is stopped by the sandbox's
PID namespace, not here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

GRACE_S = 2.0


class ProcessResult(NamedTuple):
    """How a program ended."""

    exit_code: int
    """Exit status; negative for a signal."""
    timed_out: bool
    """Whether it reached its time limit."""
    duration_s: float
    """Seconds from start to end (monotonic)."""
    truncated: bool
    """Whether output beyond the cap was dropped."""


def run_process(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    stdout: Path,
    stderr: Path,
    timeout_s: float,
    output_limit_bytes: int,
    ledger: Path,
) -> ProcessResult:
    """Run a program to its end or limit.

    Raises:
        OSError: the program cannot be started.
    """
    start = time.monotonic()
    process = spawn(argv, cwd=cwd, env=env, ledger=ledger, stdin=subprocess.DEVNULL)
    drains = [
        Drain(stream, path, output_limit_bytes)
        for stream, path in ((process.stdout, stdout), (process.stderr, stderr))
    ]
    timed_out = False
    try:
        process.wait(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        timed_out = True
    finally:
        end_process(process, ledger)
    duration_s = time.monotonic() - start
    truncated = [drain.finish() for drain in drains]
    return ProcessResult(process.returncode, timed_out, duration_s, any(truncated))


def spawn(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    ledger: Path,
    stdin: int,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, with piped output, and enter it in the ledger."""
    process = subprocess.Popen(
        list(argv),
        cwd=cwd,
        env=dict(env),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    ledger.mkdir(parents=True, exist_ok=True)
    ticks = start_ticks(process.pid)
    if ticks is not None:
        _entry(ledger, process.pid, ticks).touch()
        process.isobench_ticks = ticks  # type: ignore[attr-defined]
    return process


def end_process(process: subprocess.Popen[bytes], ledger: Path) -> None:
    """End a program's process group, softly and then for good, and take it off the ledger."""
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):  # the kill below is for that
            process.wait(timeout=GRACE_S)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()
    ticks = getattr(process, "isobench_ticks", None)
    if ticks is not None:
        _entry(ledger, process.pid, ticks).unlink(missing_ok=True)


def sweep_orphans(ledger: Path) -> list[int]:
    """Kill what a dead worker left running, by recorded pid and start time; the pids killed."""
    killed = []
    for entry in ledger.glob("*-*"):
        pid, ticks = (int(part) for part in entry.name.split("-"))
        if start_ticks(pid) == ticks:
            _signal_group(pid, signal.SIGKILL)
            killed.append(pid)
        entry.unlink(missing_ok=True)
    return killed


def start_ticks(pid: int) -> int | None:
    """Start time of a living process in clock ticks since boot; None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def boot_id() -> str:
    """The kernel's boot id."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def tail(path: Path, limit: int = 2000) -> str:
    """The end of a text file, decoded as far as it can be; empty if there is no file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ""
    return data[-limit:].decode(errors="replace").strip()


def _entry(ledger: Path, pid: int, ticks: int) -> Path:
    return ledger / f"{pid}-{ticks}"


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return  # the group is gone, or only zombies of another user are left of it


class Drain:
    """Reads a pipe to its end in a thread; keeps the first `limit` bytes."""

    def __init__(self, stream: IO[bytes] | None, path: Path, limit: int) -> None:
        assert stream is not None
        self._stream, self._path, self._left = stream, path, limit
        self._truncated = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        descriptor = self._stream.fileno()
        with self._stream, self._path.open("wb", buffering=0) as file:
            while chunk := os.read(descriptor, 65536):
                file.write(chunk[: self._left])
                self._truncated |= len(chunk) > self._left
                self._left = max(0, self._left - len(chunk))

    def finish(self) -> bool:
        """Wait for the end of the stream; whether something was dropped.

        A process that left the group may hold the pipe open; then what came so far is kept, and
        the thread ends with that process.
        """
        self._thread.join(timeout=GRACE_S)
        return self._truncated
