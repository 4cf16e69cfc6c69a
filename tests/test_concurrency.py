"""Many workspaces of a node at once, full disks, and workers that die while they make one.

Workers are processes of their own here, as on a node. Those that die are killed with SIGKILL, at
moments that are counted in steps (files opened, folders made, programs started) or by the clock.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from isobench_ray.base import FILE_TIME_S, Base
from isobench_ray.cluster.worker import Worker
from isobench_ray.overlay import mounts_below, why_no_overlay
from isobench_ray.workspace import WorkspaceKind, layer_of, open_workspace
from tests import worker_programs as programs
from tests.builders import experiment
from tests.fixtures_git import bake, make_history, run_git
from tests.tree_of_shape import Shape, write_tree
from tests.worker_programs import SHARED, edit, names_in, problems_of

ROOT = Path(__file__).parents[1]
WORKERS = 16
SHAPE = Shape(files=150, folders=30, size_bytes=1_200_000)
KINDS = ("copy", "overlay")


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> list[tuple[Path, Base]]:
    """(history, base) of three trees of different content."""
    place = tmp_path_factory.mktemp("bases")
    found = []
    for seed in range(3):
        made = place / f"made-{seed}"
        names = write_tree(made, SHAPE._replace(seed=seed))
        files = {name: (made / name).read_bytes() for name in names}
        files[SHARED] = "".join(f"base {seed}, line {n}\n" for n in range(WORKERS))
        history = make_history(place / f"history-{seed}", files, {SHARED: "the human's\n"})
        found.append((history.folder, bake(history, place / "cache").base))
    return found


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A folder for a worker."""
    folder = tmp_path / "room"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def no_mount_outlives_a_test(tmp_path: Path) -> Iterator[None]:
    """Whatever failed: what pytest removes later must hold no mounts."""
    yield
    points = [line.split(" ")[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for point in reversed([point for point in points if Path(point).is_relative_to(tmp_path)]):
        subprocess.run(["umount", "--lazy", point], check=True)


@pytest.fixture(params=KINDS)
def kind(request, tmp_path: Path) -> WorkspaceKind:
    if request.param == "overlay":
        why = why_no_overlay(tmp_path)
        if why is not None:
            pytest.skip(f"NO OVERLAYS ON THIS MACHINE, they are untested here: {why}")
    return request.param


def start(program: Callable[..., None], *arguments: object, **env: str) -> subprocess.Popen[str]:
    """Start one of this module's programs as a process of its own."""
    name = program.__name__
    return subprocess.Popen(
        [sys.executable, "-c", f"from tests.worker_programs import {name}; {name}()"]
        + [str(argument) for argument in arguments],
        cwd=ROOT,
        env=os.environ | env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def answer(process: subprocess.Popen[str]) -> str:
    """The next line that a program says; fails with its last words if it ended."""
    line = process.stdout.readline()
    if not line:
        pytest.fail(f"the program ended: {process.communicate()[1]}")
    return line.strip()


@contextlib.contextmanager
def ended(*processes: subprocess.Popen[str]) -> Iterator[None]:
    """Kill what still runs at the end, whatever happens."""
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def keep_base(base: Base, place: Path) -> Path:
    path = place / f"{base.tree}.pickle"
    path.write_bytes(pickle.dumps(base))
    return path


# Sixteen at once


def tree_by_git(history: Path, clone: Path, number: int) -> str:
    """The tree of the same edit, by plain git on the history itself."""
    if not clone.exists():
        run_git(history, "clone", "--quiet", str(history), str(clone))
    run_git(clone, "checkout", "--quiet", "--force", "main~1")
    run_git(clone, "clean", "--quiet", "-fdx")
    edit(clone, number)
    run_git(clone, "add", "--all")
    return run_git(clone, "write-tree")


def run_together(
    jobs: list[tuple[Base, WorkspaceKind]], place: Path, trespass: bool = False
) -> list[dict]:
    """Let one process per job do its work in step with all others; what they found.

    With `trespass` each also edits the workspace of the next one: a control.
    """
    rooms = [place / f"worker-{n}" for n in range(len(jobs))]
    for folder in rooms:
        folder.mkdir()
    processes = []
    for n, (base, kind) in enumerate(jobs):
        neighbour = [rooms[(n + 1) % len(rooms)] / "workspace"] if trespass else []
        base_file = keep_base(base, place)
        processes.append(start(programs.work_as_agent, base_file, rooms[n], kind, n, *neighbour))
    with ended(*processes):
        for step in ("ready", "open", "committed"):
            assert [answer(process) for process in processes] == [step] * len(jobs)
            if step == "open":  # all of them at the same time
                assert all((folder / "workspace" / ".git").is_dir() for folder in rooms)
            for process in processes:
                process.stdin.write("go\n")
                process.stdin.flush()
        return [json.loads(answer(process)) for process in processes]


def crosstalk(facts: list[dict], trees: list[str]) -> list[str]:
    """Where what a worker took is not exactly its own edit."""
    found = []
    for n, (fact, tree) in enumerate(zip(facts, trees, strict=True)):
        own = {f"own/agent_{n}.py", SHARED}
        if fact["tree"] != tree or set(fact["files"]) != own:
            found.append(f"worker {n}: {fact['files']}")
        others = [m for m in range(len(facts)) if m != n and f"worker {m} was" in fact["text"]]
        found += [f"worker {n} has the words of {m}" for m in others]
    return found


def test_sixteen_workers_at_once_each_take_exactly_their_own_edit(bases, tmp_path):
    overlays = why_no_overlay(tmp_path) is None  # where they can be mounted: beside copies
    picked = [bases[0 if n % 2 == 0 else 1 + n // 2 % 2] for n in range(WORKERS)]
    kinds = ["overlay" if overlays and n % 4 < 2 else "copy" for n in range(WORKERS)]
    trees = [tree_by_git(h, tmp_path / h.name, n) for n, (h, _) in enumerate(picked)]
    jobs = [(base, kind) for (_, base), kind in zip(picked, kinds, strict=True)]
    facts = run_together(jobs, tmp_path)
    assert crosstalk(facts, trees) == []
    for n, fact in enumerate(facts):
        assert fact["problems"] == []
        assert fact["after"] == ""
        assert fact["commits"] == [f"work of {n}", "Initial state"]
        assert not {"workspace", "changes"} & set(fact["left"])
    assert mounts_below(tmp_path) == []


def test_a_worker_that_edits_its_neighbours_workspace_is_noticed(bases, tmp_path):
    """The control of the test above: its check can fail."""
    trees = [tree_by_git(bases[0][0], tmp_path / "clone", n) for n in range(2)]
    facts = run_together([(bases[0][1], "copy")] * 2, tmp_path, trespass=True)
    assert crosstalk(facts, trees) != []


# A full disk


def mounted(folder: Path, options: str) -> None:
    """A small file system of the test's own."""
    command = ["mount", "-t", "tmpfs", "-o", options, "isobench-ray-test", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"NO MOUNTS ON THIS MACHINE, full disks are untested: {done.stderr.strip()}")


def needs(base: Base, kind: WorkspaceKind, place: Path) -> tuple[int, int]:
    """Bytes and inodes that a workspace takes on a tmpfs of its own, about."""
    place.mkdir()
    mounted(place, "size=200m")
    before = os.statvfs(place)
    with open_workspace(base, place, kind):
        after = os.statvfs(place)
    blocks = before.f_bfree - after.f_bfree
    return blocks * before.f_bsize, before.f_ffree - after.f_ffree


@pytest.mark.parametrize("short_of", ["size", "nr_inodes"])
def test_a_full_disk_is_an_error_that_leaves_nothing_behind(bases, room, kind, short_of, tmp_path):
    base = bases[0][1]
    size, inodes = needs(base, kind, tmp_path / "measured")
    need = size if short_of == "size" else inodes
    mounted(room, f"{short_of}={10 if short_of == 'nr_inodes' else 40_960}")
    for share in (0.0, 0.1, 0.5, 0.9, 0.98):
        limit = max(int(need * share), 10 if short_of == "nr_inodes" else 40_960)
        remount(room, f"{short_of}={limit}")
        with pytest.raises(OSError, match="No space left") as raised:
            open_and_close(base, room, kind)
        assert raised.value.errno == errno.ENOSPC
        whole = {layer_of(base, room).name} if share > 0.9 else set()  # it is looked at below
        assert set(names_in(room)) <= whole, f"at {share:.0%}"
    remount(room, f"{short_of}={need * 2}")
    with open_workspace(base, room, kind) as folder:
        assert problems_of(folder, base) == []


def open_and_close(base: Base, room: Path, kind: WorkspaceKind) -> None:
    with open_workspace(base, room, kind) as folder:
        assert not os.statvfs(folder).f_flag & os.ST_RDONLY, "no agent could work in it"


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def test_an_overlay_without_room_for_changes_is_never_handed_out(bases, room):
    """The kernel mounts one read-only when its work folder has no room."""
    if (why := why_no_overlay(room)) is not None:
        pytest.skip(f"NO OVERLAYS ON THIS MACHINE, they are untested here: {why}")
    base = bases[0][1]
    mounted(room, "nr_inodes=2000")
    open_and_close(base, room, "overlay")
    ballast = room / "ballast"
    ballast.mkdir()
    for number in range(os.statvfs(room).f_ffree):
        (ballast / str(number)).touch()
    refused = []
    while True:
        try:
            open_and_close(base, room, "overlay")
        except OSError as error:
            refused.append(error.errno)
        else:
            break
        assert names_in(room) == ["ballast", layer_of(base, room).name]
        next(ballast.iterdir()).unlink()
    assert set(refused) == {errno.ENOSPC}
    assert len(refused) >= 5  # one for each folder that an overlay needs, the kernel's own too
    with open_workspace(base, room, "overlay") as folder:
        assert problems_of(folder, base) == []


def test_a_file_that_cannot_be_written_whole_leaves_nothing_behind(bases, room, tmp_path, kind):
    """What a full disk does to a writer, on machines where a test can mount nothing."""
    process = start(programs.open_within_a_limit, keep_base(bases[0][1], tmp_path), room, kind)
    with ended(process):
        assert [answer(process) for _ in range(3)] == ["EFBIG", "[]", "[]"]


# Killed in the middle


def test_after_a_worker_was_killed_while_opening_the_next_open_is_whole(
    bases, room, tmp_path, kind
):
    base = bases[0][1]
    process = start(programs.die_while_opening, keep_base(base, tmp_path), room, kind)
    deaths = []
    with ended(process):
        while (line := answer(process)) != "done":
            deaths.append(json.loads(line))
    assert [death for death in deaths if death["problems"]] == []
    layer = [layer_of(base, room).name] if kind == "overlay" else []
    assert [death["moment"] for death in deaths if death["then"] != layer] == []
    left = [death["left"] for death in deaths]  # the kills hit what they were meant to hit
    if kind == "copy":
        assert sum("workspace" in names for names in left) >= 7
    else:
        assert sum("layer-unfinished" in names for names in left) >= 5
        assert any(layer[0] in names and "changes" not in names for names in left)
    assert deaths[-1]["mounts"] == (kind == "overlay")


def lose_a_file(layer: Path, base: Base) -> None:
    (layer / os.fsdecode(base.entries[-1].path)).unlink()


def empty_a_file_in_place(layer: Path, base: Base) -> None:
    """Zeros of the right length at the right time: what git's index cannot tell."""
    path = layer / os.fsdecode(base.entries[-1].path)
    path.write_bytes(bytes(base.entries[-1].size))
    os.utime(path, (FILE_TIME_S, FILE_TIME_S))


def lose_the_pack(layer: Path, base: Base) -> None:
    for path in (layer / ".git" / "objects" / "pack").glob("*.pack"):
        path.unlink()


@pytest.mark.parametrize(
    "spoil", [lose_a_file, empty_a_file_in_place, lose_the_pack], ids=lambda f: f.__name__
)
def test_an_incomplete_layer_under_the_final_name_would_be_noticed(bases, room, spoil):
    """The control of the tests here: their check sees a layer that is not whole."""
    if (why := why_no_overlay(room)) is not None:
        pytest.skip(f"NO OVERLAYS ON THIS MACHINE, they are untested here: {why}")
    base = bases[0][1]
    with open_workspace(base, room, "overlay") as folder:
        assert problems_of(folder, base) == []
    spoil(layer_of(base, room), base)
    with open_workspace(base, room, "overlay") as folder:
        assert problems_of(folder, base) != []


HALF_REMOVING = """\
#!/bin/sh
# Removes one file of a folder; then the node dies.
file=$(find "$3" -type f -name '*.py' | head -1)
/bin/rm -f "$file"
kill -9 $PPID
"""


def test_a_layer_whose_removal_was_cut_short_is_not_taken_for_whole(bases, room, tmp_path):
    if (why := why_no_overlay(room)) is not None:
        pytest.skip(f"NO OVERLAYS ON THIS MACHINE, they are untested here: {why}")
    first, second = bases[0][1], bases[1][1]
    with open_workspace(first, room, "overlay"):
        pass
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "rm").write_text(HALF_REMOVING)
    (shadow / "rm").chmod(0o755)
    path = f"{shadow}:{os.environ['PATH']}"
    process = start(programs.open_another, keep_base(second, tmp_path), room, PATH=path)
    with ended(process):
        assert process.wait(timeout=30) == -signal.SIGKILL, process.stderr.read()
    files = [p for p in room.rglob("*.py") if p.is_file()]
    assert 0 < len(files) < len([e for e in first.entries if e.path.endswith(b".py")])
    with open_workspace(first, room, "overlay") as folder:
        assert problems_of(folder, first) == []


# What dead workers leave


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("copy", "dead"),
        ("overlay", "dead"),
        ("overlay", "dead, below a link"),
        ("overlay", "alive, of an older driver"),
    ],
    indirect=["kind"],
)
def test_the_next_worker_sweeps_what_an_older_one_left_mounts_too(
    bases, tmp_path, kind, state, monkeypatch
):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    temporary = tmp_path / ("link" if "link" in state else "real")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    results, base_file = str(tmp_path / "results"), keep_base(bases[0][1], tmp_path)
    older = start(programs.hold_a_workspace, base_file, results, 1, kind, TMPDIR=str(temporary))
    with ended(older):
        workspace = Path(answer(older))
        if state.startswith("dead"):
            older.kill()
            older.wait()
        assert (workspace / SHARED).is_file()  # it would stay for ever
        assert len(mounts_below(workspace)) == (kind == "overlay")
        worker = Worker(experiment(), results, 2)
        assert mounts_below(temporary.resolve()) == []
        assert [folder.name for folder in workspace.parent.parent.iterdir()] == [
            worker._node.scratch.name
        ]
        worker.stop()
        assert older.wait(timeout=10) == -signal.SIGKILL


@pytest.mark.parametrize("kind", ["overlay"], indirect=True)
def test_what_a_worker_leaves_can_be_removed_in_the_moment_of_its_death(
    bases, room, tmp_path, kind
):
    """Its mount(8) and umount(8) may outlive it by a moment."""
    base_file = keep_base(bases[0][1], tmp_path)
    process = start(programs.remove_behind_the_dying, base_file, room, kind, 6)
    with ended(process):
        assert answer(process) == "removed"


@pytest.mark.parametrize("kind", ["copy"], indirect=True)
def test_a_living_worker_of_the_same_driver_is_left_alone(bases, tmp_path, kind, monkeypatch):
    """The control of the sweep: it takes only what is dead or older."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    results, base_file = str(tmp_path / "results"), keep_base(bases[0][1], tmp_path)
    living = start(programs.hold_a_workspace, base_file, results, 1, kind, TMPDIR=str(tmp_path))
    with ended(living):
        workspace = Path(answer(living))
        Worker(experiment(), results, 1).stop()
        assert problems_of(workspace, bases[0][1]) == []
        living.kill()
        living.wait()
        Worker(experiment(), results, 1).stop()
        assert not workspace.exists()


@pytest.mark.parametrize("kind", ["overlay"], indirect=True)
def test_a_worker_of_other_results_is_swept_once_it_is_dead(bases, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    base_file = keep_base(bases[0][1], tmp_path)
    others, own = str(tmp_path / "others"), str(tmp_path / "own")
    living = start(programs.hold_a_workspace, base_file, others, 1, kind, TMPDIR=str(tmp_path))
    with ended(living):
        workspace = Path(answer(living))
        (workspace.parents[2] / "somebody's note").touch()
        (workspace.parents[1] / "no-worker").mkdir()
        Worker(experiment(), own, 9).stop()
        assert problems_of(workspace, bases[0][1]) == []  # it lives, however old its epoch
        living.kill()
        living.wait()
        Worker(experiment(), own, 9).stop()
        assert mounts_below(tmp_path) == []
        assert not workspace.parent.exists()
        assert (workspace.parents[1] / "no-worker").exists()


@pytest.mark.parametrize("how", ["a link", "open to all"])
def test_a_scratch_root_that_somebody_else_could_have_made_is_refused(tmp_path, how, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    root = tmp_path / f"isobench-ray-{os.getuid()}"
    if how == "a link":
        (tmp_path / "elsewhere").mkdir()
        root.symlink_to("elsewhere")
    else:
        root.mkdir()
        root.chmod(0o777)
    with pytest.raises(PermissionError, match="is not a folder of this user alone"):
        Worker(experiment(), str(tmp_path / "results"), 1)
    root.unlink() if root.is_symlink() else root.chmod(0o700)
    Worker(experiment(), str(tmp_path / "results"), 1).stop()
