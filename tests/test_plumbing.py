"""Git's plumbing: bytes stay as they are, patches apply strictly, nobody's settings take part."""

from __future__ import annotations

import os

import pytest

from isobench_ray.plumbing import (
    GitError,
    apply_to_tree,
    checkout_tree,
    diff_trees,
    git,
    git_word,
    init_bare,
    numstat,
)
from tests.fixtures_git import commit_all, run_git, tree_of, write_all

TEN = "".join(f"line {n}\n" for n in range(10))


@pytest.fixture
def place(tmp_path):
    """A bare git directory with neutral attributes that borrows from the plain `tmp_path/plain`."""
    init_bare(tmp_path / "bare.git")
    plain = tmp_path / "plain"
    plain.mkdir()
    run_git(plain, "init", "--quiet", "--initial-branch=main")
    alternates = tmp_path / "bare.git" / "objects" / "info" / "alternates"
    alternates.parent.mkdir(exist_ok=True)
    alternates.write_text(f"{plain}/.git/objects\n")
    return tmp_path


def commit_tree(place, files) -> str:
    write_all(place / "plain", files)
    commit_all(place / "plain", "step")
    return tree_of(place / "plain")


def test_an_error_carries_gits_words(place):
    with pytest.raises(GitError, match="Not a valid object name"):
        git(place / "bare.git", "cat-file", "-p", "nonsense")


def test_the_users_configuration_and_variables_take_no_part(place, monkeypatch):
    hostile = place / "hostile"
    hostile.write_text("[core]\n\tautocrlf = true\n[user]\n\tname = somebody\n")
    (place / "home").mkdir()
    (place / "home" / ".gitconfig").write_text(hostile.read_text())
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(hostile))
    monkeypatch.setenv("HOME", str(place / "home"))
    monkeypatch.setenv("GIT_DIR", str(place / "nowhere"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "user.email")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "somebody@example.invalid")
    said = git(place / "bare.git", "config", "--list").decode()
    assert "somebody" not in said
    assert "core.autocrlf=true" not in said
    assert git_word(place / "bare.git", "rev-parse", "--absolute-git-dir") == str(
        place / "bare.git"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"a.txt": "other\n"},
        {"new/deep/b.txt": "x"},
        {"a.txt": None},
        {"binary": bytes(range(256)) * 9},
        {"crlf.txt": "a\r\nb\r\n"},
        {"no newline": "end"},
        {"ünïcode \t name": "x\n"},
        {".gitattributes": "* -diff binary export-ignore text eol=crlf\n", "a.txt": "changed\n"},
        {"empty": ""},
    ],
    ids=str,
)
def test_a_diff_applied_to_its_old_tree_gives_its_new_tree(place, change):
    old = commit_tree(place, {"a.txt": TEN, "crlf.txt": "a\r\n", "binary": b"\0\1\2"})
    new = commit_tree(place, change)
    assert old != new
    diff = diff_trees(place / "bare.git", old, new)
    assert apply_to_tree(place / "bare.git", old, diff) == new


def test_modes_and_links_are_part_of_a_diff(place):
    old = commit_tree(place, {"run.sh": "echo\n", "target": "x"})
    (place / "plain" / "run.sh").chmod(0o755)
    (place / "plain" / "link").symlink_to("target")
    commit_all(place / "plain", "modes")
    new = tree_of(place / "plain")
    bare = place / "bare.git"
    assert apply_to_tree(bare, old, diff_trees(bare, old, new)) == new


def test_an_empty_patch_gives_the_base_tree(place):
    old = commit_tree(place, {"a.txt": TEN})
    assert apply_to_tree(place / "bare.git", old, b"") == old
    assert apply_to_tree(place / "bare.git", old, b" \n") == old


def test_a_patch_applies_whole_and_without_fuzz_or_not_at_all(place):
    bare = place / "bare.git"
    old = commit_tree(place, {"a.txt": TEN, "b.txt": TEN})
    new = commit_tree(place, {"a.txt": TEN.replace("4", "four"), "b.txt": TEN.replace("5", "V")})
    diff = diff_trees(bare, old, new)
    assert apply_to_tree(bare, old, diff) == new
    moved_context = commit_tree(place, {"a.txt": TEN, "b.txt": TEN.replace("line 3", "line three")})
    with pytest.raises(GitError, match=r"b\.txt: patch does not apply"):
        apply_to_tree(bare, moved_context, diff)
    assert apply_to_tree(bare, old, diff) == new  # the failure left nothing behind


def test_a_patch_cannot_write_outside_of_the_tree(place):
    old = commit_tree(place, {"a.txt": TEN})
    evil = b"--- /dev/null\n+++ b/../outside\n@@ -0,0 +1 @@\n+x\n"
    with pytest.raises(GitError):
        apply_to_tree(place / "bare.git", old, evil)
    assert not (place / "outside").exists()


def test_a_checkout_has_the_trees_bytes_whatever_its_attributes_say(place):
    files = {
        ".gitattributes": "*.txt text eol=crlf\nid ident\nsecret export-ignore\n*.lfs filter=lfs\n",
        "a.txt": "one\ntwo\n",
        "id": "$Id$\n",
        "secret": "kept\n",
        "big.lfs": "version https://git-lfs.github.com/spec/v1\n",
    }
    tree = commit_tree(place, files)
    checkout_tree(place / "bare.git", tree, place / "out")
    assert {p.name: p.read_bytes().decode() for p in (place / "out").iterdir()} == files
    run_git(place / "plain", "checkout-index", "--all", f"--prefix={place}/plainly/")
    plainly = (place / "plainly" / "a.txt").read_bytes()  # positive control: plain git changes it
    assert plainly == b"one\r\ntwo\r\n"


def test_a_checkout_keeps_modes_and_links(place):
    write_all(place / "plain", {"run.sh": "echo\n"})
    (place / "plain" / "run.sh").chmod(0o755)
    (place / "plain" / "link").symlink_to("run.sh")
    commit_all(place / "plain", "step")
    checkout_tree(place / "bare.git", tree_of(place / "plain"), place / "out")
    assert os.access(place / "out" / "run.sh", os.X_OK)
    assert (place / "out" / "link").readlink().name == "run.sh"


def test_numstat_counts_lines_and_knows_no_lines_of_binary_files(place):
    old = commit_tree(place, {"a.txt": TEN, "b": b"\0"})
    new = commit_tree(place, {"a.txt": TEN.replace("4", "four") + "more\n", "b": b"\0\1"})
    assert numstat(place / "bare.git", old, new) == [("a.txt", 2, 1), ("b", None, None)]
