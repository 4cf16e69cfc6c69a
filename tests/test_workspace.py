"""The Workspace: exactly the base, no way to the human's commit, a git that works, and its end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from isobench_ray.errors import FailureRaised
from isobench_ray.experiment import PatchPolicy
from isobench_ray.extraction import extract
from isobench_ray.failure import FailureClass
from isobench_ray.workspace import layer_of, open_harness, open_workspace, remove_tree
from tests.fixtures_git import (
    Baked,
    Files,
    History,
    bake,
    commit_all,
    make_history,
    run_git,
    tree_of,
    write_all,
)
from tests.fixtures_workspace import agent_git, both_kinds, require_kind

BASE: Files = {
    "a.py": "".join(f"line {n}\n" for n in range(20)),
    "deep/er/b.py": "b\n",
    "crlf.txt": "one\r\ntwo\r\n",
    "image.bin": bytes(range(256)),
    ".gitignore": "*.log\nbuild/\n",
    "kept.log": "tracked though ignored\n",
    "empty": "",
    "ünï code.txt": "x\n",
}
HUMAN: Files = {"a.py": "the human's idea\n"}


class Scene(NamedTuple):
    history: History
    baked: Baked
    room: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[History, Baked]:
    folder = tmp_path_factory.mktemp("workspace")
    history = make_history(folder / "origin", BASE, HUMAN)
    return history, bake(history, folder / "cache")


@pytest.fixture
def scene(made, tmp_path) -> Scene:
    (tmp_path / "room").mkdir()
    return Scene(*made, tmp_path / "room")


@contextlib.contextmanager
def opened(scene: Scene, kind: str) -> Iterator[Path]:
    require_kind(kind, scene.room)
    with open_workspace(scene.baked.base, scene.room, kind) as workspace:
        yield workspace


def objects(folder: Path) -> set[str]:
    """All objects that a repository can reach, packed or loose, through alternates too."""
    listing = run_git(folder, "cat-file", "--batch-all-objects", "--batch-check=%(objectname)")
    return set(listing.split())


# What the agent gets


@both_kinds
def test_the_workspace_holds_the_bases_files_and_git_calls_it_clean(scene, kind):
    with opened(scene, kind) as workspace:
        assert agent_git(workspace, "status", "--porcelain", "--ignored") == b""
        assert tree_of(workspace) == tree_of(scene.history.folder, scene.history.base)
        for name, content in BASE.items():
            expected = content.encode() if isinstance(content, str) else content
            assert (workspace / name).read_bytes() == expected
        assert run_git(workspace, "rev-list", "--all", "--count") == "1"
        assert run_git(workspace, "branch", "--show-current") == "main"
        assert run_git(workspace, "fsck", "--full", "--strict") == ""


@both_kinds
def test_its_objects_are_the_bases_tree_and_one_commit_and_nothing_else(scene, kind):
    tree = tree_of(scene.history.folder, scene.history.base)
    listed = run_git(scene.history.folder, "ls-tree", "-r", "-t", "--format=%(objectname)", tree)
    with opened(scene, kind) as workspace:
        found = objects(workspace)
        assert found == {tree, scene.baked.base.commit, *listed.split()}
        assert scene.history.base not in found  # nor the base's own message and parents
        assert not (workspace / ".git" / "objects" / "info" / "alternates").exists()
    clone = scene.room / "clone"  # positive control: a plain clone has the human's commit
    run_git(scene.room, "clone", "--quiet", str(scene.history.folder), str(clone))
    assert scene.history.human in objects(clone)


@both_kinds
def test_no_file_of_it_names_the_human_or_the_place_it_came_from(scene, kind):
    with opened(scene, kind) as workspace:
        places = [path for path in workspace.rglob("*") if path.is_file()]
        assert places
        for path in places:
            content = path.read_bytes()
            assert b"the human's idea" not in content
            assert scene.history.human.encode() not in content
            assert str(scene.history.folder).encode() not in content


def test_two_workspaces_of_a_base_have_the_same_commit_by_nobody_at_no_time(scene):
    seen = []
    for _ in range(2):
        with opened(scene, "copy") as workspace:
            form = "--format=%H %an %ae %at %cn %ce %ct %s"
            seen.append(run_git(workspace, "log", form))
    commit = scene.baked.base.commit
    nobody = "isobench-ray workspace@isobench-ray.invalid 946684800"
    assert seen == [f"{commit} {nobody} {nobody} Initial state"] * 2


@pytest.mark.parametrize(
    "attributes",
    [
        "*.txt text eol=crlf",
        "* text=auto eol=crlf",
        "*.py ident",
        "*.txt working-tree-encoding=UTF-16",
        "* export-ignore",
        "*.py export-subst",
        "*.bin filter=lfs diff=lfs merge=lfs -text",
        "* -diff",
    ],
)
def test_attributes_change_neither_the_files_nor_the_tree(tmp_path, attributes):
    base = {".gitattributes": attributes + "\n", "id.py": "# $Id$ $Format:%H$\n", "lf.txt": "a\n"}
    history = make_history(tmp_path / "origin", {"a.py": "a\n"}, HUMAN)
    run_git(history.folder, "reset", "--quiet", "--hard", history.base)
    write_all(history.folder, base | {"image.bin": b"\0\1"})
    (history.folder / ".git" / "info").mkdir(exist_ok=True)  # so that blobs are the bytes above
    neutral = "* -text !eol !filter !ident !working-tree-encoding\n"
    (history.folder / ".git" / "info" / "attributes").write_text(neutral)
    base_commit = commit_all(history.folder, "attributes")
    write_all(history.folder, HUMAN)
    history = History(history.folder, base_commit, commit_all(history.folder, "human"))
    baked = bake(history, tmp_path / "cache")
    harness = open_harness(baked.base, tmp_path / "harness.git")
    with open_workspace(baked.base, tmp_path) as workspace:
        for name, content in base.items():
            assert (workspace / name).read_bytes() == content.encode()
        assert agent_git(workspace, "status", "--porcelain") == b""
        untouched = extract(baked.base, workspace, harness, PatchPolicy())
        assert untouched.text == b""
        write_all(workspace, {"lf.txt": "a\r\nb\n", "id.py": "# $Id$ changed\n"})
        patch = extract(baked.base, workspace, harness, PatchPolicy()).patch
    write_all(history.folder, {"a.py": "a\n", "lf.txt": "a\r\nb\n", "id.py": "# $Id$ changed\n"})
    commit_all(history.folder, "the same change")
    assert patch.tree == tree_of(history.folder)


# The agent's own git


@both_kinds
def test_the_agents_git_shows_stashes_commits_and_takes_back(scene, kind):
    with opened(scene, kind) as workspace:
        write_all(workspace, {"a.py": "mine\n", "new.py": "x\n", "kept.log": "changed\n"})
        assert agent_git(workspace, "status", "--porcelain") == b" M a.py\n M kept.log\n?? new.py\n"
        assert b"+mine" in agent_git(workspace, "diff")
        agent_git(workspace, "stash", "--include-untracked")
        assert agent_git(workspace, "status", "--porcelain") == b""
        agent_git(workspace, "stash", "pop")
        assert (workspace / "new.py").read_text() == "x\n"
        agent_git(workspace, "add", "--all")
        agent_git(workspace, "commit", "--quiet", "-m", "mine")
        assert agent_git(workspace, "log", "--format=%an %s").split(b"\n")[0] == b"agent mine"
        write_all(workspace, {"a.py": "worse\n"})
        agent_git(workspace, "checkout", "--", "a.py")
        assert (workspace / "a.py").read_text() == "mine\n"
        agent_git(workspace, "reset", "--quiet", "--hard", "HEAD~1")
        assert agent_git(workspace, "status", "--porcelain") == b""
        assert (workspace / "a.py").read_text() == BASE["a.py"]


def test_gits_first_look_reads_no_file_and_the_harness_reads_all(scene):
    """Same size, same time: git's status trusts the baked index; the patch is taken."""
    harness = open_harness(scene.baked.base, scene.room / "harness.git")
    with opened(scene, "copy") as workspace:
        path = workspace / "a.py"
        status = path.stat()
        path.write_bytes(path.read_bytes().replace(b"line 7\n", b"line X\n"))
        assert agent_git(workspace, "status", "--porcelain") == b" M a.py\n"  # by its time
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert agent_git(workspace, "status", "--porcelain") == b""
        patch = extract(scene.baked.base, workspace, harness, PatchPolicy()).patch
    assert patch.files == ("a.py",)


# Nothing is shared


@both_kinds
def test_what_an_agent_writes_reaches_no_other_workspace_layer_or_harness(scene, kind):
    harness = open_harness(scene.baked.base, scene.room / "harness.git")
    with opened(scene, kind) as workspace:
        files = [path for path in workspace.rglob("*") if path.is_file()]
        assert {path.stat().st_nlink for path in files} == {1}
        for path in files:
            path.chmod(0o644)
            with path.open("ab") as file:
                file.write(b"damage")
    assert run_git(harness, "fsck", "--full", "--strict") == ""
    with opened(scene, kind) as workspace:
        assert agent_git(workspace, "status", "--porcelain") == b""
        assert run_git(workspace, "fsck", "--full", "--strict") == ""


def test_a_layer_is_written_once_and_gives_way_to_that_of_another_base(scene, tmp_path):
    human = scene.baked.repository.bake(scene.baked.resolved.human_tree)
    layer = layer_of(scene.baked.base, scene.room)
    with opened(scene, "overlay"):
        first = layer.stat().st_ino
    with opened(scene, "overlay"):
        assert layer.stat().st_ino == first
    with open_workspace(human, scene.room, "overlay") as workspace:
        assert (workspace / "a.py").read_text() == HUMAN["a.py"]
        assert not layer.exists()


# Stale bytecode

IMPORT_TWICE = """\
import importlib, os, subprocess, sys
def show():
    print(subprocess.run([sys.executable, "-c", "import m; print(m.value)"],
                         capture_output=True, text=True, check=True).stdout.strip())
show()
status = os.stat("m.py")
with open("m.py", "r+") as file:
    file.write("value = 2")
os.utime("m.py", ns=(status.st_atime_ns, status.st_mtime_ns))
show()
"""


@pytest.mark.parametrize(("variable", "seen"), [("1", "1\n2\n"), ("", "1\n1\n")])
def test_stale_bytecode_cannot_survive_an_edit(tmp_path, variable, seen):
    """As stages/solve.py starts agents; the control without its variable runs old code."""
    history = make_history(tmp_path / "origin", {"m.py": "value = 1\n"}, HUMAN)
    base = bake(history, tmp_path / "cache").base
    with open_workspace(base, tmp_path) as workspace:
        env = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": variable}
        argv = [sys.executable, "-c", IMPORT_TWICE]
        done = subprocess.run(
            argv, cwd=workspace, env=env, capture_output=True, text=True, check=True
        )
    assert done.stdout == seen


# Where it may be, and its end


def test_a_room_inside_of_another_repository_is_refused(scene):
    run_git(scene.room.parent, "init", "--quiet")
    with pytest.raises(FailureRaised) as raised, opened(scene, "copy"):
        pass
    assert raised.value.failure.failure_class is FailureClass.SCRATCH_IN_REPOSITORY
    assert str(scene.room.parent) in raised.value.failure.message
    assert list(scene.room.iterdir()) == []


@both_kinds
@pytest.mark.parametrize("how", ["in order", "with an error"])
def test_the_workspace_is_removed_at_the_end(scene, kind, how):
    with contextlib.suppress(ZeroDivisionError), opened(scene, kind) as workspace:
        write_all(workspace, {"new/file": "x"})
        (workspace / "new").chmod(0)
        deep = workspace
        for _ in range(300):
            deep = deep / "deeper"
            deep.mkdir()
        if how == "with an error":
            raise ZeroDivisionError
    left = {path.name for path in scene.room.iterdir()}
    assert left <= {layer_of(scene.baked.base, scene.room).name}


@both_kinds
def test_an_older_workspace_in_the_room_is_replaced(scene, kind):
    write_all(scene.room, {"workspace/a.py": "an answer\n", "changes/upper/b.py": "another\n"})
    with opened(scene, kind) as workspace:
        assert (workspace / "a.py").read_text() == BASE["a.py"]
        assert not (workspace / "b.py").exists()


def test_names_that_collide_are_an_error_and_leave_nothing(scene, monkeypatch):
    """On a file system that folds case, two names of the base would be one file."""
    base = scene.baked.base
    twice = base._replace(entries=(*base.entries, base.entries[-1]))
    with pytest.raises(FileExistsError), open_workspace(twice, scene.room):
        pass
    assert list(scene.room.iterdir()) == []


REMOVE = """
import os, shutil, sys
from pathlib import Path
from isobench_ray.workspace import remove_tree
if os.getuid() == 0:
    os.setuid(65534)
folder = Path(sys.argv[1])
(folder / "deep" / "er").mkdir(parents=True)
(folder / "deep" / "er" / "file").touch()
(folder / "out").symlink_to(sys.argv[2])
for place in ("deep/er", "deep", sys.argv[3]):
    (folder / place).chmod(0o500)
try:
    shutil.rmtree(folder)
    print("the control could remove it")
except PermissionError:
    pass
remove_tree(folder)
print(folder.exists(), Path(sys.argv[2]).stat().st_mode & 0o777 == 0o750)
"""


@pytest.mark.parametrize("innermost", ["deep/er", "."], ids=["inner folders", "its own folder too"])
def test_a_tree_without_write_permission_is_removed_and_links_out_of_it_are_left(innermost):
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        outside = Path(place) / "outside"
        outside.mkdir(mode=0o750)
        argv = [sys.executable, "-c", REMOVE, f"{place}/tree", str(outside), innermost]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == ("False True\n", "")


def test_a_link_in_a_folders_place_is_removed_and_what_it_names_is_left(tmp_path):
    write_all(tmp_path, {"outside/file": "x"})
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    remove_tree(tmp_path / "link")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "outside" / "file").exists()
