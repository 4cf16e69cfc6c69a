"""Programs that tests/test_concurrency.py starts as processes of their own: what workers do.

Each takes its arguments from the command line and says what it found on its output. Here because
a process that imports no more than it needs is there at once.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from isobench_ray.base import Base
from isobench_ray.experiment import PatchPolicy
from isobench_ray.extraction import extract
from isobench_ray.overlay import mounts_below
from isobench_ray.workspace import (
    WorkspaceKind,
    layer_of,
    open_harness,
    open_workspace,
    remove_tree,
)
from tests.fixtures_git import run_git, wait_for, write_all

SHARED = "shared.py"
"""A file of each base that every worker edits, each another line."""
STEPS = {"open", "os.mkdir", "os.utime", "os.rename", "subprocess.Popen"}
"""Python's audit events that count as steps of making a workspace."""


def say(words: str) -> None:
    print(words, flush=True)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read_base(path: str) -> Base:
    return pickle.loads(Path(path).read_bytes())  # noqa: S301 - our own, of a moment ago


def problems_of(folder: Path, base: Base) -> list[str]:
    """What is wrong with a fresh workspace, found by plain git and by reading every file."""
    found = []
    if status := run_git(folder, "status", "--porcelain", "--ignored", check=False):
        found.append(f"status: {status[:200]}")
    if (head := run_git(folder, "rev-parse", "HEAD", check=False)) != base.commit:
        found.append(f"HEAD: {head}")
    found += [f"files: {name!r}" for name in files_that_differ(folder, base)][:5]
    if "error" in (fsck := run_git(folder, "fsck", "--full", "--strict", check=False)):
        found.append(f"fsck: {fsck[:200]}")
    objects = run_git(folder, "cat-file", "--batch-all-objects", "--batch-check", check=False)
    if len(set(objects.splitlines())) != objects_in(base):
        found.append("objects: not those of the base")
    return found


def files_that_differ(folder: Path, base: Base) -> set[str]:
    """Paths whose bytes or modes are not the base's, each file read and compared."""
    listed = {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in folder.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(folder).parts
    }
    expected = {
        os.fsdecode(entry.path): (bytes(base.bytes_of(entry)), entry.mode & 0o777)
        for entry in base.entries
    }
    return {name for name in listed | expected if listed.get(name) != expected.get(name)}


def objects_in(base: Base) -> int:
    """Number of objects in the base's pack, by its header."""
    return int.from_bytes(base.pack[8:12], "big")


def work_as_agent() -> None:
    """Open a workspace, edit, commit, extract; each step when it is told to."""
    base_file, place, kind, number, *elsewhere = sys.argv[1:]
    base, room, n = read_base(base_file), Path(place), int(number)
    say("ready")
    sys.stdin.readline()
    harness = open_harness(base, room / "harness.git")
    with open_workspace(base, room, kind) as folder:
        say("open")
        sys.stdin.readline()
        clean = problems_of(folder, base) if n < 4 else []
        for target in (folder, *map(Path, elsewhere)):
            edit(target, n)
        run_git(folder, "add", "--all")
        run_git(folder, "commit", "--quiet", "-m", f"work of {n}")
        after = run_git(folder, "status", "--porcelain")
        say("committed")
        sys.stdin.readline()
        taken = extract(base, folder, harness, PatchPolicy())
        commits = run_git(folder, "log", "--format=%s").splitlines()
        run_git(folder, "fsck", "--strict")
    facts = {"problems": clean, "after": after, "commits": commits, "left": names_in(room)}
    facts |= {"files": taken.patch.files, "tree": taken.patch.tree, "text": taken.text.decode()}
    say(json.dumps(facts))


def edit(folder: Path, number: int) -> None:
    """A worker's own edit: a file of its own, and its line of the file that all edit."""
    write_all(folder, {f"own/agent_{number}.py": f"mine = {number}\n" * 20})
    lines = (folder / SHARED).read_text().splitlines(keepends=True)
    lines[number] = f"worker {number} was here\n"
    (folder / SHARED).write_text("".join(lines))


def open_within_a_limit() -> None:
    """Open a workspace with a limit of file size that its pack exceeds, then without."""
    base_file, place, kind = sys.argv[1:]
    base, room = read_base(base_file), Path(place)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(base.pack) // 2, hard))
    try:
        with open_workspace(base, room, kind):
            say("opened")
    except OSError as error:
        say(errno.errorcode[error.errno])
    say(json.dumps(names_in(room)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    with open_workspace(base, room, kind) as folder:
        say(json.dumps(problems_of(folder, base)))


def die_while_opening() -> None:
    """Fork workers that are killed while they open a workspace; look at what a next one gets."""
    base_file, place, kind = sys.argv[1:]
    base, room = read_base(base_file), Path(place)
    with open_workspace(base, room, kind):
        pass
    remove_tree(layer_of(base, room))
    count = count_steps(base, room, kind)
    late = 8 if kind == "overlay" else 2  # from the layer's last file to the mount
    moments = sorted(
        {1 + count * part // 6 for part in range(6)} | set(range(count - late, count + 1))
    )
    deaths: list[tuple[str, Callable[[], None]]] = [
        (f"step {moment} of {count}", lambda m=moment: die_at_step(m, base, room, kind))
        for moment in moments
    ]
    deaths += [
        (f"after {delay_ms} ms", lambda d=delay_ms: die_after(d, base, room, kind))
        for delay_ms in (3, 10, 25)
    ]
    deaths.append(("while it was open", lambda: die_after(None, base, room, kind)))
    for name, die in deaths:
        die()
        facts = {"moment": name, "left": names_in(room)}
        facts["mounts"] = len(mounts_below(room))
        with open_workspace(base, room, kind) as folder:
            facts["problems"] = problems_of(folder, base)
        facts["then"] = names_in(room)
        say(json.dumps(facts))
        remove_tree(layer_of(base, room))
    say("done")


def count_steps(base: Base, room: Path, kind: WorkspaceKind) -> int:
    """Steps until a workspace is open, counted in a process that goes no further."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        seen: list[str] = []
        sys.addaudithook(lambda event, _: seen.append(event) if event in STEPS else None)
        with open_workspace(base, room, kind):
            os.write(writer, str(len(seen)).encode())
            os._exit(0)
    os.waitpid(child, 0)
    for name in ("workspace", "changes", layer_of(base, room).name):
        remove_tree(room / name)
    return int(os.read(reader, 100))


def die_at_step(moment: int, base: Base, room: Path, kind: WorkspaceKind) -> None:
    child = os.fork()
    if child == 0:
        steps = iter(range(1, moment))

        def count(event: str, _: object) -> None:
            if event in STEPS and next(steps, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        with open_workspace(base, room, kind):
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, "it opened before that step"


def die_after(delay_ms: int | None, base: Base, room: Path, kind: WorkspaceKind) -> None:
    """Kill a worker and its programs, opening or open; None: as soon as it is open."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        with open_workspace(base, room, kind):
            os.write(writer, b"open")
            time.sleep(60)
        os._exit(1)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)  # whoever comes first
    if delay_ms is None:
        os.read(reader, 10)
    else:
        time.sleep(delay_ms / 1000)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    wait_for(lambda: not group_lives(child))
    for end in (reader, writer):
        os.close(end)


def remove_behind_the_dying() -> None:
    """Kill workers while they open and close workspaces; remove what they leave in that moment."""
    base_file, place, kind, deaths = sys.argv[1:]
    base = read_base(base_file)
    for number in range(int(deaths)):
        room = Path(place) / str(number)
        room.mkdir()
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            while True:
                with open_workspace(base, room, kind):
                    pass
        time.sleep(0.02 + 0.012 * number)
        os.kill(child, signal.SIGKILL)  # and not the programs that it started
        remove_tree(room)
        os.waitpid(child, 0)
        wait_for(lambda group=child: not group_lives(group))
        assert mounts_below(room) == []
        assert not room.exists()
    say("removed")


def group_lives(group: int) -> bool:
    """Whether a process of a group still does something; zombies do not."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended in this moment
            state, _, of_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group and state not in "ZX":
                return True
    return False


def open_another() -> None:
    base_file, place = sys.argv[1:]
    with open_workspace(read_base(base_file), Path(place), "overlay"):
        say("opened")


def hold_a_workspace() -> None:
    """A worker with an open workspace and a program in it, until it is killed."""
    from isobench_ray.cluster.worker import Worker  # noqa: PLC0415 - slow, and only needed here
    from tests.builders import experiment  # noqa: PLC0415

    base_file, results, epoch, kind = sys.argv[1:]
    worker = Worker(experiment(), results, int(epoch))
    with open_workspace(read_base(base_file), worker._node.scratch, kind) as folder:
        subprocess.Popen(["sleep", "100"], cwd=folder, stdout=subprocess.DEVNULL)
        say(str(folder))
        sys.stdin.readline()
