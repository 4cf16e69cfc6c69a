"""The Workspace: exactly the base, no way to the human's commit, and the patch that was made."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from isobench_ray.workspace import (
    Extraction,
    Workspace,
    describe_patch,
    open_harness,
    open_workspace,
)
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


def prepare(tmp_path: Path, base: Files = BASE) -> tuple[History, Baked, Path]:
    history = make_history(tmp_path / "origin", base, HUMAN)
    baked = bake(history, tmp_path / "cache")
    return history, baked, open_harness(baked.base, tmp_path / "harness.git")


@contextlib.contextmanager
def opened(tmp_path: Path, base: Files = BASE) -> Iterator[tuple[History, Workspace]]:
    history, baked, harness = prepare(tmp_path, base)
    with open_workspace(baked.base, tmp_path / "workspace", harness) as workspace:
        yield history, workspace


def objects(folder: Path) -> set[str]:
    """All objects that a repository can reach, packed or loose, through alternates too."""
    listing = run_git(folder, "cat-file", "--batch-all-objects", "--batch-check=%(objectname)")
    return set(listing.split())


def by_plain_git(tmp_path: Path, history: History, change: Callable[[Path], object]) -> str:
    """The tree that plain git makes of a change to the base."""
    plain = tmp_path / "plainly"
    run_git(tmp_path, "clone", "--quiet", str(history.folder), str(plain))
    run_git(plain, "checkout", "--quiet", history.base)
    change(plain)
    run_git(plain, "add", "--all")
    return run_git(plain, "write-tree")


# What the agent gets


def test_the_workspace_holds_the_bases_files_and_git_calls_it_clean(tmp_path):
    with opened(tmp_path) as (history, workspace):
        assert tree_of(workspace.folder) == tree_of(history.folder, history.base)
        assert run_git(workspace.folder, "status", "--porcelain", "--ignored") == ""
        for name, content in BASE.items():
            expected = content.encode() if isinstance(content, str) else content
            assert (workspace.folder / name).read_bytes() == expected
        assert run_git(workspace.folder, "rev-list", "--all", "--count") == "1"
        assert run_git(workspace.folder, "branch", "--show-current") == "main"


def test_its_objects_are_the_bases_tree_and_one_commit_and_nothing_else(tmp_path):
    with opened(tmp_path) as (history, workspace):
        tree = tree_of(history.folder, history.base)
        listed = run_git(history.folder, "ls-tree", "-r", "-t", "--format=%(objectname)", tree)
        expected = {tree, workspace.base.commit, *listed.split()}
        assert objects(workspace.folder) == expected
        assert not (workspace.folder / ".git" / "objects" / "info" / "alternates").exists()
        clone = tmp_path / "clone"  # positive control: a plain clone has the human's commit
        run_git(tmp_path, "clone", "--quiet", str(history.folder), str(clone))
        assert history.human in objects(clone)


def test_the_humans_commit_its_blobs_and_the_place_it_came_from_are_absent(tmp_path):
    with opened(tmp_path) as (history, workspace):
        blob = run_git(history.folder, "rev-parse", f"{history.human}:a.py")
        found = objects(workspace.folder)
        assert not found & {history.human, blob, tree_of(history.folder, history.human)}
        assert history.base not in found  # nor the base's own message and parents
        places = [p for p in workspace.folder.rglob("*") if p.is_file()]
        assert places
        for path in places:
            content = path.read_bytes()
            assert b"the human's idea" not in content
            assert history.human.encode() not in content
            assert str(tmp_path / "origin").encode() not in content


def test_two_workspaces_of_a_base_have_the_same_commit(tmp_path):
    _, baked, harness = prepare(tmp_path)
    heads = []
    for name in ("one", "two"):
        with open_workspace(baked.base, tmp_path / name, harness) as workspace:
            heads.append(run_git(workspace.folder, "rev-parse", "HEAD"))
    assert heads == [baked.base.commit] * 2


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
    with open_workspace(baked.base, tmp_path / "workspace", harness) as workspace:
        for name, content in base.items():
            assert (workspace.folder / name).read_bytes() == content.encode()
        untouched = workspace.extract()
        assert untouched.text == b""
        assert untouched.patch.tree == tree_of(history.folder, base_commit)
        write_all(workspace.folder, {"lf.txt": "a\r\nb\n", "id.py": "# $Id$ changed\n"})
        patch = workspace.extract().patch
    write_all(history.folder, {"a.py": "a\n", "lf.txt": "a\r\nb\n", "id.py": "# $Id$ changed\n"})
    commit_all(history.folder, "the same change")
    assert patch.tree == tree_of(history.folder)


# What comes of it


def edit(folder: Path) -> None:
    path = folder / "a.py"
    path.write_text(path.read_text().replace("line 7\n", "line seven\n"))


def chmod(folder: Path) -> None:
    (folder / "deep" / "er" / "b.py").chmod(0o755)


def link(folder: Path) -> None:
    (folder / "link").symlink_to("a.py")
    (folder / "dangling").symlink_to("/not/there")


def file_becomes_link(folder: Path) -> None:
    (folder / "a.py").unlink()
    (folder / "a.py").symlink_to("empty")


def file_becomes_folder(folder: Path) -> None:
    (folder / "empty").unlink()
    write_all(folder, {"empty/now/full": "x"})


def new_ignored(folder: Path) -> None:
    write_all(folder, {"debug.log": "x", "build/out.o": "x", "kept.log": "changed\n"})


CHANGES: dict[str, Callable[[Path], object]] = {
    "edit": edit,
    "new": lambda f: write_all(f, {"new/deep/c.py": "c\n", "wéird name\n": "x"}),
    "delete": lambda f: write_all(f, {"a.py": None, "deep/er/b.py": None}),
    "chmod": chmod,
    "symlink": link,
    "binary": lambda f: write_all(f, {"image.bin": bytes(range(255, -1, -1)), "new.bin": b"\0"}),
    "crlf": lambda f: write_all(f, {"crlf.txt": "one\ntwo\r\n", "a.py": "a\r\n"}),
    "empty": lambda f: write_all(f, {"empty": "full", "a.py": "", "new": ""}),
    "no-newline": lambda f: write_all(f, {"a.py": "no newline at the end"}),
    "tracked-though-ignored": lambda f: write_all(f, {"kept.log": "changed\n"}),
    "new-ignored": new_ignored,
    "file-becomes-link": file_becomes_link,
    "file-becomes-folder": file_becomes_folder,
    "rename": lambda f: (f / "a.py").rename(f / "renamed.py"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_resulting_tree_is_the_one_that_git_itself_makes(tmp_path, name):
    with opened(tmp_path) as (history, workspace):
        CHANGES[name](workspace.folder)
        extraction = workspace.extract()
    expected = by_plain_git(tmp_path, history, CHANGES[name])
    assert extraction.patch.tree == expected
    assert expected != tree_of(history.folder, history.base)
    assert extraction.patch.apply_error is None


def test_nothing_changed_is_the_empty_patch(tmp_path):
    with opened(tmp_path) as (_, workspace):
        extraction = workspace.extract()
    assert extraction.text == b""
    assert extraction.patch.tree == extraction.patch.base_tree == workspace.base.tree
    assert (extraction.patch.lines_added, extraction.patch.files) == (0, ())


def test_the_patch_says_what_it_changes(tmp_path):
    with opened(tmp_path) as (_, workspace):
        edit(workspace.folder)
        write_all(workspace.folder, {"new.py": "1\n2\n"})
        text_only = workspace.extract().patch
        write_all(workspace.folder, {"image.bin": b"\0"})
        with_binary = workspace.extract().patch
    assert text_only.files == ("a.py", "new.py")
    assert (text_only.lines_added, text_only.lines_removed) == (3, 1)
    assert (with_binary.lines_added, with_binary.lines_removed) == (None, None)


def commits(folder: Path) -> None:
    edit(folder)
    run_git(folder, "commit", "--quiet", "-a", "-m", "mine")
    run_git(folder, "checkout", "--quiet", "-b", "elsewhere")


def deletes_git(folder: Path) -> None:
    edit(folder)
    subprocess.run(["rm", "-rf", str(folder / ".git")], check=True)


def breaks_git(folder: Path) -> None:
    edit(folder)
    (folder / ".git" / "HEAD").write_text("nonsense")
    (folder / ".git" / "config").write_text("[core\nbroken")
    (folder / ".git" / "index").write_bytes(b"")


def starts_git_anew(folder: Path) -> None:
    deletes_git(folder)
    run_git(folder, "init", "--quiet")
    commit_all(folder, "everything is mine")


def hides_files_from_git(folder: Path) -> None:
    edit(folder)
    (folder / ".git" / "info").mkdir(exist_ok=True)
    (folder / ".git" / "info" / "exclude").write_text("*\n")
    (folder / ".git" / "info" / "attributes").write_text("* filter=nothing eol=crlf text\n")
    run_git(folder, "config", "filter.nothing.clean", "true")
    run_git(folder, "config", "core.excludesFile", "/dev/zero")
    run_git(folder, "config", "core.autocrlf", "true")
    run_git(folder, "update-index", "--assume-unchanged", "a.py")


@pytest.mark.parametrize(
    "trick",
    [commits, deletes_git, breaks_git, starts_git_anew, hides_files_from_git],
    ids=lambda trick: trick.__name__,
)
def test_what_the_agent_does_to_its_own_git_does_not_change_the_patch(tmp_path, trick):
    with opened(tmp_path) as (history, workspace):
        trick(workspace.folder)
        extraction = workspace.extract()
    assert extraction.patch.tree == by_plain_git(tmp_path, history, edit)
    assert extraction.patch.files == ("a.py",)


def test_new_files_are_judged_by_the_bases_ignore_rules_not_by_the_agents(tmp_path):
    with opened(tmp_path) as (_, workspace):
        write_all(workspace.folder, {".gitignore": "*.py\n", "new.py": "1\n", "debug.log": "x"})
        patch = workspace.extract().patch
    assert patch.files == (".gitignore", "new.py")


def test_what_cannot_be_taken_is_named_with_the_reason(tmp_path):
    with opened(tmp_path) as (_, workspace):
        edit(workspace.folder)
        nested = workspace.folder / "nested"
        nested.mkdir()
        run_git(nested, "init", "--quiet")
        write_all(nested, {"inner.py": "x\n"})
        commit_all(nested, "inner")
        patch = workspace.extract().patch
    assert patch.files == ("a.py",)
    assert patch.excluded == ("nested: nested repository",)


def test_extracting_twice_gives_the_same(tmp_path):
    with opened(tmp_path) as (_, workspace):
        edit(workspace.folder)
        assert workspace.extract() == workspace.extract()


# Patches that come as text


def describe(tmp_path: Path, text: bytes) -> tuple[Baked, Extraction]:
    _, baked, harness = prepare(tmp_path)
    return baked, describe_patch(harness, baked.base.tree, text)


def test_the_humans_diff_gives_the_humans_tree(tmp_path):
    _, baked, harness = prepare(tmp_path)
    extraction = describe_patch(harness, baked.base.tree, baked.resolved.human_diff)
    assert extraction.patch.tree == baked.resolved.human_tree
    assert extraction.text == baked.resolved.human_diff


def test_a_patch_that_does_not_apply_is_kept_with_gits_words(tmp_path):
    text = b"--- a/a.py\n+++ b/a.py\n@@ -1,2 +1,2 @@\n line 0\n-line X\n+line Y\n"
    baked, extraction = describe(tmp_path, text)
    assert extraction.text == text
    assert extraction.patch.tree is None
    assert "a.py: patch does not apply" in extraction.patch.apply_error
    assert extraction.patch.base_tree == baked.base.tree
    assert extraction.patch.size_bytes == len(text)


def test_text_that_is_no_patch_at_all_does_not_apply(tmp_path):
    _, extraction = describe(tmp_path, b"I could not find anything to improve.\n")
    assert extraction.patch.tree is None
    assert extraction.patch.apply_error


def test_an_empty_text_gives_the_base_tree(tmp_path):
    baked, extraction = describe(tmp_path, b"")
    assert extraction.patch.tree == baked.base.tree


# Its end


@pytest.mark.parametrize("how", ["in order", "with an error"])
def test_the_workspace_is_removed_at_the_end(tmp_path, how):
    with contextlib.suppress(ZeroDivisionError), opened(tmp_path) as (_, workspace):
        write_all(workspace.folder, {"new/file": "x"})
        assert workspace.folder.exists()
        if how == "with an error":
            raise ZeroDivisionError
    assert not (tmp_path / "workspace").exists()


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
