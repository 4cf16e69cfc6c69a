"""Rooms behind links, folders that are renamed, and the end of a workspace whatever is in it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from isobench_ray.errors import FailureRaised
from isobench_ray.failure import FailureClass
from isobench_ray.overlay import mount_overlay, mounts_below, unmount_below
from isobench_ray.workspace import layer_of, open_workspace, remove_tree
from tests.fixtures_git import Baked, Files, bake, make_history, run_git, write_all
from tests.fixtures_workspace import agent_git, both_kinds, require_kind, scan

BASE: Files = {"a.py": "a\n", "deep/er/b.py": "b\n", "crlf.txt": "one\r\n", "empty": ""}
HUMAN: Files = {"a.py": "the human's idea\n"}
WHOLE = {b"first.txt": b"the first commit\n"} | {n.encode(): c.encode() for n, c in BASE.items()}


class Scene(NamedTuple):
    """A baked base, and a room for its workspaces."""

    baked: Baked
    room: Path

    @contextlib.contextmanager
    def open(self, kind: str) -> Iterator[Path]:
        require_kind(kind, self.room)
        with open_workspace(self.baked.base, self.room, kind) as folder:
            yield folder

    def kept(self, kind: str) -> list[Path]:
        return [layer_of(self.baked.base, self.room)] if kind == "overlay" else []


@pytest.fixture(scope="module")
def baked(tmp_path_factory) -> Baked:
    folder = tmp_path_factory.mktemp("ends")
    return bake(make_history(folder / "origin", BASE, HUMAN), folder / "cache")


@pytest.fixture
def scene(baked, tmp_path) -> Scene:
    (tmp_path / "room").mkdir()
    return Scene(baked, tmp_path / "room")


def found_in(folder: Path) -> dict[bytes, bytes]:
    return {path: content for path, (_, content) in scan(folder).items()}


def mountinfo() -> str:
    """The kernel's own list of mounts."""
    return Path("/proc/self/mountinfo").read_text()


@both_kinds
def test_nothing_of_a_later_commit_is_left_in_the_room_of_the_next_workspace(scene, kind):
    later = scene.baked.repository.bake(scene.baked.resolved.human_tree)
    with scene._replace(baked=scene.baked._replace(base=later)).open(kind) as folder:
        assert (folder / "a.py").read_text() == HUMAN["a.py"]
    with scene.open(kind) as folder:
        assert found_in(folder) == WHOLE
        files = [path for path in scene.room.rglob("*") if path.is_file()]
        assert files
        assert not any(b"the human's idea" in path.read_bytes() for path in files)


@both_kinds
def test_the_agent_can_rename_folders_of_the_base(scene, kind):
    """An overlay refuses it (EXDEV) unless it is mounted with redirect_dir."""
    with scene.open(kind) as folder:
        agent_git(folder, "mv", "deep", "deeper")
        (folder / "deeper" / "er").rename(folder / "er")
        agent_git(folder, "add", "-A")
        assert agent_git(folder, "status", "--porcelain") == b"R  deep/er/b.py -> er/b.py\n"


@both_kinds
@pytest.mark.parametrize("what", ["repository", "worktree", "above", "behind a link"])
def test_a_room_inside_another_repository_is_refused(scene, kind, what):
    room = scene.room
    if what == "worktree":
        write_all(room, {".git": "gitdir: /nonexistent\n"})
    else:
        run_git(scene.room, "init", "--quiet")
    if what in {"above", "behind a link"}:
        room = scene.room / "deep" / "er"
        room.mkdir(parents=True)
    if what == "behind a link":
        (scene.room.parent / "linked").symlink_to(room)
        room = scene.room.parent / "linked"
    with pytest.raises(FailureRaised) as raised, scene._replace(room=room).open(kind):
        pass
    assert raised.value.failure.failure_class is FailureClass.SCRATCH_IN_REPOSITORY
    assert not (room / "workspace").exists()


@both_kinds
def test_a_room_behind_a_link_is_as_good_as_any(scene, kind):
    linked = scene.room.parent / "linked"
    linked.symlink_to(scene.room)
    for _ in range(2):
        with scene._replace(room=linked).open(kind) as folder:
            assert found_in(folder) == WHOLE
        assert [path.name for path in scene.room.iterdir()] == [p.name for p in scene.kept(kind)]
        assert str(scene.room) not in mountinfo()


def test_a_mount_is_found_through_a_link_above_it_and_a_link_in_its_place_leads_nowhere(tmp_path):
    require_kind("overlay", tmp_path)
    place, through = tmp_path / "place", tmp_path / "linked"
    write_all(place, {"lower/a.py": "base\n"})
    through.symlink_to(place)
    mount_overlay(through / "lower", through / "changes", through / "merged")
    assert mounts_below(through / "merged") == [place / "merged"]
    unmount_below(through)
    assert str(place / "merged") in mountinfo()
    unmount_below(through / "merged")
    assert str(place) not in mountinfo()


def closes_folders(folder: Path) -> None:
    write_all(folder, {"closed/deep/file": "x"})
    for name in ("closed/deep", "closed", "deep", ".git/objects", "."):
        (folder / name).chmod(0o000)


def digs_deep(folder: Path) -> None:
    code = "import os\nfor _ in range(3000):\n  os.mkdir('d' * 9)\n  os.chdir('d' * 9)\n"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)


def mounts(folder: Path) -> None:
    for name in ("mounted", "mounted/within"):
        (folder / name).mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "test", folder / name], check=True)
        write_all(folder / name, {"file": "x"})


def unmounts(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", folder], check=False, capture_output=True)


def becomes_a_link(folder: Path) -> None:
    write_all(folder.parent.parent, {"elsewhere/file": "x"})
    unmounts(folder)
    remove_tree(folder)
    folder.symlink_to("../elsewhere")


ENDS: list[Callable[[Path], object]] = [
    closes_folders, digs_deep, mounts, unmounts, becomes_a_link, remove_tree,
]  # fmt: skip


@both_kinds
@pytest.mark.parametrize("act", ENDS, ids=lambda act: act.__name__)
@pytest.mark.parametrize("how", ["in order", "with an error"])
def test_a_workspace_is_removed_whatever_happened_in_it(scene, kind, act, how):
    if act is mounts:
        require_kind("overlay", scene.room)
    with contextlib.suppress(ZeroDivisionError), scene.open(kind) as folder:
        act(folder)
        if how == "with an error":
            raise ZeroDivisionError
    assert list(scene.room.iterdir()) == scene.kept(kind)
    assert str(scene.room) not in mountinfo()
    assert (scene.room.parent / "elsewhere" / "file").exists() == (act is becomes_a_link)
    with scene.open(kind) as folder:
        assert found_in(folder) == WHOLE


REMOVE = """
import os, sys
from pathlib import Path
from isobench_ray.workspace import remove_tree
if os.getuid() == 0:
    os.setuid(65534)
folder = Path(sys.argv[1])
(folder / "deep" / "er").mkdir(parents=True)
(folder / "deep" / "er" / "file").touch()
for place in ("deep/er", "deep", "."):
    (folder / place).chmod(int(sys.argv[2], 8))
remove_tree(folder)
print(folder.exists())
"""


@pytest.mark.parametrize("mode", ["0000", "0300", "0400"])
def test_folders_that_cannot_even_be_listed_are_removed(mode):
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        argv = [sys.executable, "-c", REMOVE, f"{place}/tree", mode]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize("bare", [True, False])
def test_a_git_directory_is_sound_and_never_written_over(baked, tmp_path, bare):
    baked.base.write_git(tmp_path / ".git", bare=bare)
    assert run_git(tmp_path / ".git", "fsck", "--full", "--strict", "--unreachable") == ""
    with pytest.raises(FileExistsError):
        baked.base.write_git(tmp_path / ".git", bare=bare)


def test_no_link_in_the_way_of_a_file_is_followed(baked, tmp_path):
    folder, outside = tmp_path / "place", tmp_path / "outside"
    folder.mkdir()
    (folder / "a.py").symlink_to(outside)
    with pytest.raises(FileExistsError):
        baked.base.write_files(folder)
    assert not outside.exists()
