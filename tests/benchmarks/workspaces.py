"""Rows about workspaces: making one, and taking the patch from it.

Both sides of a row write to fresh folders, and removing those is not timed. The first measurement
of a row is thrown away: it pays for what is loaded once.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from isobench_ray.base import Base
from isobench_ray.experiment import PatchPolicy
from isobench_ray.extraction import extract
from isobench_ray.overlay import why_no_overlay
from isobench_ray.workspace import WorkspaceKind, open_harness, open_workspace
from tests.benchmarks.row import Bar, LeftOut, Row, Setting
from tests.fixtures_git import run_git, write_all

TURNS = 3
CHANGED_FILES = 18
NEW_FILES = {f"notes/new_{n}.py": f"value = {n}\n" * 200 for n in range(4)}
IGNORED_FILES = {f"build/part_{n}.o": bytes(50_000) for n in range(20)} | {
    f"__pycache__/module_{n}.cpython-311.pyc": bytes(5_000) for n in range(20)
}


def copy(setting: Setting) -> Iterator[tuple[float, float]]:
    """A written workspace and the first `git status`, beside a loop that writes the same files."""
    while True:
        yield _in_turns(lambda: _opened_ms(setting, "copy"), lambda: _loop_ms(setting))


def overlay(setting: Setting) -> Iterator[tuple[float, float]]:
    """The same with an overlay over a layer that is there already."""
    why = why_no_overlay(setting.folder)
    if why is not None:
        raise LeftOut(f"no overlay can be mounted: {why.splitlines()[0]}")
    room = setting.folder / "overlay-room"
    room.mkdir()
    with open_workspace(setting.base, room, "overlay"):
        pass  # writes the layer
    while True:
        yield _in_turns(lambda: _opened_ms(setting, "overlay", room), lambda: _loop_ms(setting))


def detached_worktree(setting: Setting) -> Iterator[tuple[float, float]]:
    """A written workspace and the first `git status`, beside what git alone offers for the same."""
    while True:
        yield _opened_ms(setting, "copy"), _detached_ms(setting)


def extraction(setting: Setting) -> Iterator[tuple[float, float]]:
    """The verified patch of an agent's work, beside the diff that the agent's own git gives."""
    while True:
        room = _fresh(setting.folder / "room")
        harness = open_harness(setting.base, room / "harness.git")
        with open_workspace(setting.base, room, "copy") as folder:
            _work(setting.base, folder)
            start = time.perf_counter()
            taken = extract(setting.base, folder, harness, PatchPolicy())
            middle = time.perf_counter()
            run_git(folder, "add", "-A")
            diff = run_git(folder, "diff", "--cached", "--binary", "HEAD")
            end = time.perf_counter()
        assert len(taken.patch.files) == CHANGED_FILES + len(NEW_FILES), taken.patch.files
        assert diff
        yield (middle - start) * 1000, (end - middle) * 1000


ROWS = (
    Row(
        "workspace",
        "writing a workspace, and its first `git status`",
        "a Python loop of open, write, close over the same files",
        copy,
        Bar("ratio", 2.5, "ratio at most 2.5"),
    ),
    Row(
        "overlay",
        "mounting a workspace, and its first `git status`",
        "the same loop",
        overlay,
        Bar("ratio", 0.7, "ratio at most 0.7"),
    ),
    Row(
        "detached worktree",
        "writing a workspace, and its first `git status`",
        "`worktree add`, `rm .git`, `init`, `add -A`, `commit`, `status`",
        detached_worktree,
        Bar("ratio", 1 / 8, "at least 8 times faster: ratio at most 0.125"),
    ),
    Row(
        "extraction",
        f"the verified patch of {CHANGED_FILES} changed and {len(NEW_FILES)} new files",
        "`add -A`, `diff --cached --binary HEAD`",
        extraction,
        Bar("ms", 150, "at most 150 ms"),
    ),
)


def _in_turns(subject: Callable[[], float], reference: Callable[[], float]) -> tuple[float, float]:
    """Medians of a few turns of both: single ones are short enough for chance to show."""
    pairs = [(subject(), reference()) for _ in range(TURNS)]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


def _opened_ms(setting: Setting, kind: WorkspaceKind, room: Path | None = None) -> float:
    room = room or _fresh(setting.folder / "room")
    start = time.perf_counter()
    with open_workspace(setting.base, room, kind) as folder:
        status = run_git(folder, "status", "--porcelain")
        end = time.perf_counter()
    assert status == "", status
    return (end - start) * 1000


def _loop_ms(setting: Setting) -> float:
    room = _fresh(setting.folder / "loop")
    files = []
    for entry in setting.base.entries:
        path = os.path.join(room, os.fsdecode(entry.path))  # noqa: PTH118 - leaner in the loop
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        files.append((path, setting.base.bytes_of(entry)))
    start = time.perf_counter()
    for path, content in files:
        with open(path, "wb") as file:  # noqa: PTH123 - the plain loop
            file.write(content)
    end = time.perf_counter()
    shutil.rmtree(room)
    return (end - start) * 1000


def _detached_ms(setting: Setting) -> float:
    room = _fresh(setting.folder / "worktree-room")
    folder = room / "workspace"
    start = time.perf_counter()
    run_git(setting.mirror, "worktree", "add", "--quiet", "--detach", str(folder), setting.commit)
    (folder / ".git").unlink()
    run_git(folder, "init", "--quiet", "--initial-branch=main")
    run_git(folder, "add", "-A")
    run_git(folder, "commit", "--quiet", "-m", "base")
    status = run_git(folder, "status", "--porcelain")
    end = time.perf_counter()
    assert status == "", status
    shutil.rmtree(room)
    run_git(setting.mirror, "worktree", "prune")
    return (end - start) * 1000


def _work(base: Base, folder: Path) -> None:
    """What an agent leaves: edits spread over the tree, new files, and what a build makes."""
    texts = [
        entry for entry in base.entries if entry.mode == 0o100644 and entry.path[-3:] == b".py"
    ]
    for entry in texts[:: max(1, len(texts) // CHANGED_FILES)][:CHANGED_FILES]:
        path = folder / os.fsdecode(entry.path)
        path.write_bytes(b"import this\n" + path.read_bytes())
    write_all(folder, NEW_FILES | IGNORED_FILES)


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
