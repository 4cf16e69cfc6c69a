"""Programs: ended with all their children, their output capped, their left-overs findable."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isobench_ray.process import (
    ProcessResult,
    run_process,
    spawn,
    start_ticks,
    sweep_orphans,
    tail,
)
from tests.fixtures_git import wait_for

LEAVER = """
import os, signal, sys
from pathlib import Path
from isobench_ray.process import spawn
argv, env = ["/bin/sh", "-c", "sleep 60 & sleep 60"], {"PATH": "/usr/bin:/bin"}
process = spawn(argv, cwd=Path("/"), env=env, ledger=Path(sys.argv[1]), stdin=-3)
print(process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def run(folder: Path, *argv: str, timeout_s: float = 20.0, limit: int = 10**6) -> ProcessResult:
    return run_process(
        argv, cwd=folder, env={"PATH": "/usr/bin:/bin", "GIVEN": "yes"},
        stdout=folder / "stdout", stderr=folder / "stderr", timeout_s=timeout_s,
        output_limit_bytes=limit, ledger=folder / "ledger",
    )  # fmt: skip


def shell(folder: Path, script: str, **options) -> ProcessResult:
    return run(folder, "/bin/sh", "-c", script, **options)


def test_a_program_runs_with_its_folder_variables_and_output(tmp_path, monkeypatch):
    monkeypatch.setenv("OF_THE_HARNESS", "secret")
    result = shell(tmp_path, 'pwd; echo "$GIVEN"; env; echo loud >&2; cat')
    assert result[:2] == (0, False)
    assert not result.truncated
    lines = (tmp_path / "stdout").read_text().splitlines()
    assert lines[:2] == [str(tmp_path), "yes"]
    assert "GIVEN=yes" in lines
    assert "OF_THE_HARNESS=secret" not in lines
    assert (tmp_path / "stderr").read_text() == "loud\n"


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", -15), ("kill -9 $$", -9)]
)
def test_the_exit_status_and_the_signal_are_told(tmp_path, script, status):
    assert shell(tmp_path, script).exit_code == status


def test_the_time_limit_ends_the_program_and_its_children(tmp_path):
    result = shell(tmp_path, "sleep 60 & echo $!; echo $$; sleep 60", timeout_s=0.5)
    assert result.timed_out
    assert result.exit_code < 0
    assert 0.5 <= result.duration_s < 5
    pids = [int(word) for word in (tmp_path / "stdout").read_text().split()]
    assert len(pids) == 2
    wait_for(lambda: [start_ticks(pid) for pid in pids] == [None, None])


def test_a_program_that_ignores_the_soft_signal_is_killed(tmp_path):
    result = shell(tmp_path, "trap '' TERM; while :; do sleep 0.1; done", timeout_s=0.3)
    assert result.timed_out
    assert result.exit_code == -9
    assert result.duration_s < 8


def test_a_program_that_heeds_the_soft_signal_can_put_things_in_order(tmp_path):
    script = "trap 'echo saved; exit 7' TERM; while :; do sleep 0.05; done"
    result = shell(tmp_path, script, timeout_s=0.3)
    assert result.timed_out
    assert result.exit_code == 7
    assert (tmp_path / "stdout").read_text() == "saved\n"


def test_children_that_outlive_a_program_that_ended_by_itself_are_ended_too(tmp_path):
    result = shell(tmp_path, "sleep 60 & echo $!")
    assert (result.exit_code, result.timed_out) == (0, False)
    child = int((tmp_path / "stdout").read_text())
    wait_for(lambda: start_ticks(child) is None)


def test_a_daemon_that_left_the_session_does_not_hold_up_the_end_and_nothing_leaks(tmp_path):
    gc.collect()
    open_files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no Path that counts faster
    start = time.monotonic()
    result = shell(tmp_path, "setsid sleep 30 & echo $! > daemon; sleep 0.2; echo done")
    daemon = int((tmp_path / "daemon").read_text())
    try:
        assert result.exit_code == 0
        assert time.monotonic() - start < 7
        assert (tmp_path / "stdout").read_text() == "done\n"
    finally:
        os.kill(daemon, 9)  # positive control: it was still alive
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= open_files)  # noqa: PTH208
    gc.collect()  # a pipe that nobody closed is a ResourceWarning, which fails this test


def test_output_beyond_the_cap_is_dropped_and_said(tmp_path):
    result = shell(tmp_path, "head -c 300000 /dev/zero; echo end >&2", limit=1000)
    assert result.exit_code == 0
    assert result.truncated
    assert (tmp_path / "stdout").stat().st_size == 1000
    assert (tmp_path / "stderr").read_text() == "end\n"


def test_output_of_exactly_the_cap_is_whole(tmp_path):
    result = shell(tmp_path, "head -c 1000 /dev/zero", limit=1000)
    assert not result.truncated
    assert (tmp_path / "stdout").stat().st_size == 1000


def test_a_program_that_does_not_exist_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        run(tmp_path, "/not/there")


def test_the_ledger_names_a_living_program_and_forgets_an_ended_one(tmp_path):
    result = shell(tmp_path, "sleep 0.2; ls ledger; echo $$")
    name, pid = (tmp_path / "stdout").read_text().split()
    assert result.exit_code == 0
    assert name.split("-")[0] == pid
    assert list((tmp_path / "ledger").iterdir()) == []


def test_what_a_dead_worker_left_is_swept_with_its_children(tmp_path):
    argv = [sys.executable, "-c", LEAVER, str(tmp_path / "ledger")]
    worker = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert worker.returncode == -9
    pid = int(worker.stdout)
    assert start_ticks(pid) is not None
    children = Path(f"/proc/{pid}/task/{pid}/children")
    wait_for(lambda: len(children.read_text().split()) == 2)
    pids = [pid, *map(int, children.read_text().split())]
    assert sweep_orphans(tmp_path / "ledger") == [pid]
    wait_for(lambda: [start_ticks(left) for left in pids] == [None] * 3)
    assert list((tmp_path / "ledger").iterdir()) == []


def test_a_process_with_another_start_time_is_never_swept(tmp_path):
    argv = ["/bin/sleep", "60"]
    stranger = spawn(argv, cwd=tmp_path, env={}, ledger=tmp_path / "own", stdin=subprocess.DEVNULL)
    ticks, ledger = start_ticks(stranger.pid), tmp_path / "ledger"
    ledger.mkdir()
    try:
        (ledger / f"{stranger.pid}-{ticks - 1}").touch()
        assert sweep_orphans(ledger) == []
        time.sleep(0.1)
        assert stranger.poll() is None
        (ledger / f"{stranger.pid}-{ticks}").touch()  # positive control: the right start time
        assert sweep_orphans(ledger) == [stranger.pid]
        assert stranger.wait(timeout=5) == -9
    finally:
        stranger.kill()
        stranger.wait()
        stranger.stdout.close()
        stranger.stderr.close()


def test_a_ledger_that_was_never_made_has_no_orphans(tmp_path):
    assert sweep_orphans(tmp_path / "absent") == []


def test_start_ticks_tell_the_living_from_the_dead():
    assert start_ticks(os.getpid()) is not None
    child = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert start_ticks(child.pid) is None  # a zombie
    child.wait()
    assert start_ticks(child.pid) is None


def test_the_tail_of_a_log_is_its_end_whatever_its_bytes(tmp_path):
    (tmp_path / "log").write_bytes(b"start " + b"\xff" * 10 + b" the end\n")
    assert tail(tmp_path / "log", 9) == "the end"
    assert tail(tmp_path / "log").startswith("start �")
    assert tail(tmp_path / "absent") == ""
