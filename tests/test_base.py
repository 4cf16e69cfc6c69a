"""The baked base as bytes: what an index may be, and what bases of odd trees give."""

from __future__ import annotations

import stat
import struct

import pytest

from isobench_ray.base import FILE_TIME_S, make_index
from isobench_ray.workspace import open_harness, open_workspace
from tests.fixtures_git import Files, bake, commit_all, make_history, run_git, write_all


@pytest.mark.parametrize("version", [3, 4])
def test_an_index_of_another_version_is_refused(version):
    with pytest.raises(ValueError, match=f"version {version}, expected DIRC 2"):
        make_index(struct.pack(">4sII", b"DIRC", version, 0) + bytes(20), {})


def test_what_is_no_index_is_refused():
    with pytest.raises(ValueError, match="expected DIRC 2"):
        make_index(b"something else altogether", {})


def test_modes_links_and_empty_files_are_written_as_git_writes_them(tmp_path):
    history = make_history(tmp_path / "origin", {"a.py": "a\n"}, {"a.py": "b\n"})
    run_git(history.folder, "reset", "--quiet", "--hard", history.base)
    write_all(history.folder, {"run.sh": "x\n", "empty": "", "d/x": "1"})
    (history.folder / "run.sh").chmod(0o755)
    (history.folder / "link").symlink_to("d/x")
    (history.folder / "dangling").symlink_to("/nowhere")
    base_commit = commit_all(history.folder, "odd")
    write_all(history.folder, {"a.py": "c\n"})
    odd = history._replace(base=base_commit, human=commit_all(history.folder, "human"))
    base = bake(odd, tmp_path / "cache").base
    with open_workspace(base, tmp_path) as workspace:
        assert (workspace / "run.sh").stat().st_mode & stat.S_IXUSR
        assert not (workspace / "a.py").stat().st_mode & stat.S_IXUSR
        assert (workspace / "link").readlink().as_posix() == "d/x"
        assert (workspace / "dangling").readlink().as_posix() == "/nowhere"
        assert {p.lstat().st_mtime for p in workspace.iterdir() if not p.is_dir()} == {FILE_TIME_S}
        assert run_git(workspace, "status", "--porcelain") == ""
        debug = run_git(workspace, "ls-files", "--debug", "a.py")
        assert f"mtime: {FILE_TIME_S}:0" in debug
        assert "size: 2" in debug


def test_an_empty_tree_is_a_base_too(tmp_path):
    files: Files = {"only.py": "x\n"}
    history = make_history(tmp_path / "origin", files, {"only.py": "y\n"})
    run_git(history.folder, "rm", "--quiet", "-r", ".")
    base_commit = commit_all(history.folder, "empty")
    write_all(history.folder, files)
    empty = history._replace(base=base_commit, human=commit_all(history.folder, "human"))
    base = bake(empty, tmp_path / "cache").base
    assert (base.entries, base.content) == ((), b"")
    harness = open_harness(base, tmp_path / "harness.git")
    assert run_git(harness, "fsck", "--full", "--strict") == ""
    with open_workspace(base, tmp_path) as workspace:
        assert run_git(workspace, "status", "--porcelain") == ""
