"""Taking the patch: whatever an agent leaves, the patch is what its files say, and applies.

Truth is a second opinion (fixtures_workspace.py): an own scan of the folder by the stated policy,
and the checkout that plain git gives after `git apply`. The usual recipe, `git add -A` and `git
diff` in the agent's repository, runs through the same table and goes wrong where it is known to.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import pickle
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from isobench_ray.base import Base
from isobench_ray.experiment import PatchPolicy
from isobench_ray.extraction import extract
from isobench_ray.patches import Extraction, describe_patch
from isobench_ray.plumbing import GitError, git
from isobench_ray.workspace import open_harness, open_workspace
from tests.fixtures_git import (
    Baked,
    Files,
    History,
    bake,
    commit_all,
    make_history,
    run_git,
    write_all,
)
from tests.fixtures_workspace import (
    Scan,
    agent_git,
    both_kinds,
    check_out,
    expected_after,
    init_neutral,
    require_kind,
    scan,
    tree_after,
)

BASE: Files = {
    "a.py": "".join(f"line {n}\n" for n in range(40)),
    "b.py": "b = 1\n",
    "run.sh": "#!/bin/sh\n",
    "crlf.txt": "one\r\ntwo\r\n",
    "image.bin": bytes(range(256)),
    "late-nul.bin": b"x" * 20_000 + b"\n\0\n",
    "empty": "",
    "no-eol": "no newline",
    "pkg/__init__.py": "",
    "pkg/mod.py": "value = 1\n",
    "pkg/deep/x.py": "x\n",
    "csrc/kernel.cu": "kernel\n",
    "csrc/.gitignore": "*.so\n!keep.so\n/gen/\n",
    "configs/tuned.json": "{}\n",
    "kept.log": "tracked though ignored\n",
    "README": "README\n",
    "ünï code.txt": "x\n",
    ".gitignore": "*.log\nbuild/\n*.so\nconfigs/*.json\n",
    ".gitattributes": "*.txt text eol=crlf\n*.py ident\n*.bin binary\n",
}
LINKS = {"link": "a.py", "to-folder": "pkg/deep"}
HUMAN: Files = {"a.py": "the human's idea\n", "pkg/new.py": "new\n", "empty": None}
SUBMODULE = "third/lib"
SUBMODULE_COMMIT = "c0ffee" * 6 + "c0ff"
GITS_OWN = "git's own; the files beside it are taken"


class Scene(NamedTuple):
    """A history with all kinds of files and a submodule, and what plain git makes of its base."""

    history: History
    baked: Baked
    checkout: Path
    files: Scan

    @property
    def base(self) -> Base:
        return self.baked.base


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    place = tmp_path_factory.mktemp("scene")
    origin = place / "origin"
    init_neutral(origin)
    write_all(origin, BASE)
    (origin / "run.sh").chmod(0o755)
    for name, target in LINKS.items():
        (origin / name).symlink_to(target)
    run_git(origin, "add", "--all", "--force")
    gitlink = f"160000,{SUBMODULE_COMMIT},{SUBMODULE}"
    run_git(origin, "update-index", "--add", "--cacheinfo", gitlink)
    (origin / SUBMODULE).mkdir(parents=True)
    run_git(origin, "commit", "--quiet", "-m", "base")
    base = run_git(origin, "rev-parse", "HEAD")
    write_all(origin, HUMAN)
    history = History(origin, base, commit_all(origin, "human"))
    checkout = check_out(origin, base, place / "checkout")
    return Scene(history, bake(history, place / "cache"), checkout, scan(checkout))


class Bench(NamedTuple):
    """A workspace with its harness, and the judge of what is taken from it."""

    scene: Scene
    folder: Path
    harness: Path
    place: Path

    def extract(self, policy: PatchPolicy | None = None) -> Extraction:
        return extract(self.scene.base, self.folder, self.harness, policy or PatchPolicy())

    def apply(self, text: bytes) -> tuple[str, Path]:
        """Plain git's tree and checkout after a patch."""
        checkout = Path(tempfile.mkdtemp(dir=self.place)) / "checkout"
        subprocess.run(["cp", "-a", self.scene.checkout, checkout], check=True)
        return tree_after(checkout, text), checkout

    def judge(self, extraction: Extraction, without: tuple[bytes, ...] = ()) -> None:
        """The patch gives, with plain git, exactly the workspace's files by the stated policy."""
        expected = expected_after(self.scene.files, self.folder, without)
        tree, checkout = self.apply(extraction.text)
        assert scan(checkout) == expected
        assert extraction.patch.tree == tree
        assert extraction.patch.apply_error is None

    def take(self, *without: bytes, policy: PatchPolicy | None = None) -> tuple[str, ...]:
        """Extract and judge; what was excluded, in the record's words."""
        extraction = self.extract(policy)
        self.judge(extraction, without)
        return extraction.excluded


@contextlib.contextmanager
def opened(scene: Scene, tmp_path: Path, kind: str = "copy") -> Iterator[Bench]:
    require_kind(kind, tmp_path)
    room = tmp_path / "room"
    room.mkdir()
    harness = open_harness(scene.base, tmp_path / "harness.git")
    with open_workspace(scene.base, room, kind) as folder:
        yield Bench(scene, folder, harness, tmp_path)


@pytest.fixture
def bench(scene, tmp_path) -> Iterator[Bench]:
    with opened(scene, tmp_path) as bench:
        yield bench


# The table: what agents do


def edit(f: Path, name: str = "a.py") -> None:
    path = f / name
    path.write_text(path.read_text() + "edited\n")


def rename_and_edit(f: Path) -> None:
    (f / "a.py").rename(f / "renamed.py")
    edit(f, "renamed.py")
    (f / "pkg").rename(f / "package")


def links(f: Path) -> None:
    (f / "new-link").symlink_to("a.py")
    (f / "dangling").symlink_to("/not/there")
    (f / "loop").symlink_to("loop")
    (f / "b.py").unlink()
    (f / "b.py").symlink_to("empty")
    (f / "link").unlink()
    (f / "link").write_text("a file now")
    (f / "to-folder").unlink()
    write_all(f, {"to-folder/x": "a folder now"})


def odd_names(f: Path) -> None:
    names = [
        "with space", " leading", "trailing ", "tab\there", "line\nbreak", "return\r", "\x01\x7f",
        '"quoted"', "back\\slash", "-n", "--", ":(top)x", ":!x", "*", "?", "[a]", "#x", "!x", "~",
        "{a,b}", "$HOME", "ünï", "日本", ".", "..a", "a ->b", "con", "/x b/x", "a/x b/x",
    ]  # fmt: skip
    write_all(f / "odd", {name.strip("/"): name for name in names if name != "."})
    write_all(f, {name.strip("/"): "" for name in ("x b/x", ":(top)x", "-n", '"', "\n", "sp ace")})
    (f / "sp ace2").touch(0o755)


def non_utf8(f: Path) -> None:
    names = [os.fsdecode(name) for name in (b"caf\xe9.txt", b"\xff\xfe/\x80", b"\xe8", b"\xe9")]
    write_all(f, dict.fromkeys(names[:2], "x"))
    (f / names[2]).symlink_to(names[3])


def between_files_and_folders(f: Path) -> None:
    (f / "a.py").unlink()
    write_all(f, {"a.py/inside": "x"})
    shutil.rmtree(f / "pkg")
    (f / "pkg").write_text("a file now\n")


def commits(f: Path) -> None:
    edit(f)
    write_all(f, {"new.py": "new\n"})
    agent_git(f, "add", "-A")
    agent_git(f, "commit", "-q", "-m", "mine")
    edit(f, "b.py")


def commits_and_amends(f: Path) -> None:
    edit(f)
    agent_git(f, "checkout", "-q", "-b", "elsewhere")
    agent_git(f, "commit", "-q", "-a", "--amend", "-m", "the root is mine")
    edit(f, "b.py")
    agent_git(f, "commit", "-q", "-a", "-m", "more")


def stashes(f: Path) -> None:
    edit(f)
    agent_git(f, "stash")
    edit(f, "b.py")


def hides_by_flags(f: Path) -> None:
    agent_git(f, "update-index", "--assume-unchanged", "a.py")
    agent_git(f, "update-index", "--skip-worktree", "b.py")
    edit(f)
    edit(f, "b.py")


def same_size(f: Path) -> None:
    for name in ("a.py", "b.py"):
        path = f / name
        before = path.stat()
        path.write_bytes(path.read_bytes()[:-2] + b"!\n")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size


def without_git(f: Path) -> None:
    edit(f)
    shutil.rmtree(f / ".git")


def begins_anew(f: Path) -> None:
    without_git(f)
    agent_git(f, "init", "-q")
    agent_git(f, "add", "-A")
    agent_git(f, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "-m", "all mine")


def corrupts(f: Path) -> None:
    edit(f)
    (f / ".git" / "index").write_bytes(b"DIRC nonsense")
    (f / ".git" / "HEAD").write_text("nonsense")
    (f / ".git" / "config").write_text("[core\nbroken")


def leaves_a_lock(f: Path) -> None:
    edit(f)
    (f / ".git" / "index.lock").touch()


def nested_repository(f: Path, *, commit: bool) -> None:
    edit(f)
    init_neutral(f / "nested" / "inner")
    write_all(f / "nested" / "inner", {"deep/inner.py": "x\n"})
    if commit:
        commit_all(f / "nested" / "inner", "inner")


def git_in_a_tracked_folder(f: Path) -> None:
    agent_git(f / "pkg", "init", "-q")
    edit(f, "pkg/mod.py")


def attribute_tricks(f: Path) -> None:
    agent_git(f, "config", "filter.trick.clean", "sed s/line/LINE/")
    rules = "* text eol=crlf ident filter=trick\n*.py working-tree-encoding=UTF-16 -diff\n"
    write_all(f, {".gitattributes": rules, "pkg/new.txt": "$Id$\r\nline\n", "no-eol": "line\r\n"})
    write_all(f, {".git/info/attributes": "* text eol=lf filter=trick merge=ours\n"})
    edit(f)


def evil_configuration(f: Path) -> None:
    edit(f)
    write_all(f, {"new.py": "new\n"})
    marker = f.parent / "MARKER"
    touch = f"touch {marker}; cat"
    (f / ".git" / "hooks").mkdir(exist_ok=True)
    for hook in ("pre-commit", "post-index-change", "post-checkout", "fsmonitor-watchman"):
        path = f / ".git" / "hooks" / hook
        path.write_text(f"#!/bin/sh\ntouch {marker}\n")
        path.chmod(0o755)
    for key, value in {
        "filter.evil.clean": touch, "filter.evil.smudge": touch, "filter.evil.required": "true",
        "filter.evil.process": touch, "diff.external": touch, "diff.evil.textconv": touch,
        "core.fsmonitor": ".git/hooks/fsmonitor-watchman", "color.ui": "always",
        "color.diff": "always", "diff.noprefix": "true", "diff.mnemonicPrefix": "true",
        "core.excludesFile": "/dev/zero", "core.autocrlf": "true", "core.quotePath": "false",
        "core.pager": touch, "diff.renames": "copies", "core.worktree": "/nonexistent",
    }.items():  # fmt: skip
        agent_git(f, "config", key, value)
    write_all(f, {".git/info/attributes": "* filter=evil diff=evil\n"})
    (f / ".git" / "objects" / "info").mkdir(exist_ok=True)
    write_all(f, {".git/objects/info/alternates": "/nonexistent/objects\n"})


def special_files(f: Path) -> None:
    edit(f)
    os.mkfifo(f / "pkg" / "fifo")
    try:
        os.mknod(f / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        os.mkfifo(f / "device")
    with contextlib.chdir(f), socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")


def scratch(f: Path) -> None:
    edit(f)
    write_all(f, {"pkg/__pycache__/mod.cpython-311.pyc": b"\0", "pkg/mod.pyc": b"\0"})
    write_all(f, {".pytest_cache/v/x": "x", ".pytest_cache/.gitignore": "*", ".agent/note": "x"})


def folder_becomes_link(f: Path) -> None:
    shutil.rmtree(f / "pkg")
    (f / "pkg").symlink_to("csrc")
    shutil.rmtree(f / "csrc")
    (f / "csrc").symlink_to(f.parent)


class Case(NamedTuple):
    """What an agent does, and what of it is no part of the patch."""

    act: Callable[[Path], object]
    excluded: Mapping[str, str] = MappingProxyType({})
    """By path, a folder's with a slash and its number of files: the reason in the record."""
    naive_is_wrong: bool = False
    """Whether the usual recipe in the agent's repository is known to go wrong."""
    policy: PatchPolicy = PatchPolicy()

    @property
    def without(self) -> tuple[bytes, ...]:
        return tuple(name.partition(" (")[0].encode() for name in self.excluded)

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(f"{name}: {reason}" for name, reason in sorted(self.excluded.items()))


def wrote(files: Files) -> Callable[[Path], None]:
    return lambda f: write_all(f, files)


SPECIAL = "not a regular file"
BY_SCRATCH = "ignored by the patch policy"
CASES = {
    "edit": Case(edit),
    "new file": Case(wrote({"new.py": "1\n", "new/deep/er.py": "2\n"})),
    "delete": Case(wrote({"a.py": None, "pkg/deep/x.py": None, "link": None})),
    "rename+edit": Case(rename_and_edit),
    "chmod +x": Case(lambda f: ((f / "a.py").chmod(0o755), (f / "run.sh").chmod(0o644))),
    "symlink new + file->symlink": Case(links),
    "binary new+edit": Case(
        wrote({
            "image.bin": bytes(range(255, -1, -1)), "new.bin": b"\0" * 999,
            "late-nul.bin": b"x" * 20_001 + b"\n\0\0\n",
        })
    ),
    "CRLF new+convert": Case(
        wrote({"crlf.txt": "one\ntwo\r\n", "b.py": "b = 1\r\n", "n.txt": "1\r\n2\r", "m": "1\n"})
    ),
    "odd names": Case(odd_names),
    "non-utf8 name": Case(non_utf8),
    "empty file, no-eol": Case(
        wrote({"empty": "full", "a.py": "", "no-eol": "no newline\n", "b.py": "x", "void": ""})
    ),
    "file->dir, dir->file": Case(between_files_and_folders),
    ".gitignore hides own new file": Case(
        wrote({".gitignore": "*.log\nhidden.py\n", "hidden.py": "1\n"}), naive_is_wrong=True
    ),
    'nested .gitignore "*"': Case(
        wrote({"mine/.gitignore": "*\n", "mine/x.py": "1\n", "pkg/.gitignore": "*\n", "pkg/y": ""}),
        naive_is_wrong=True,
    ),
    "info/exclude hides": Case(
        wrote({".git/info/exclude": "*.py\n", "hidden.py": "1\n"}), naive_is_wrong=True
    ),
    "edit tracked-but-ignored": Case(wrote({"kept.log": "new\n", "configs/tuned.json": "[]"})),
    "agent commits": Case(commits, naive_is_wrong=True),
    "agent commits + new branch + amend root": Case(commits_and_amends, naive_is_wrong=True),
    "agent stash (work lost in stash)": Case(stashes),
    "assume-unchanged/skip-worktree": Case(hides_by_flags, naive_is_wrong=True),
    "same size, mtime restored": Case(same_size, naive_is_wrong=True),
    "agent deletes .git": Case(without_git, naive_is_wrong=True),
    "agent re-inits .git": Case(begins_anew, naive_is_wrong=True),
    "corrupt .git (index garbage)": Case(corrupts, naive_is_wrong=True),
    "index.lock left": Case(leaves_a_lock, naive_is_wrong=True),
    "nested repo with commit": Case(
        lambda f: nested_repository(f, commit=True), {"nested/inner/.git": GITS_OWN}, True
    ),
    "nested repo no commit": Case(
        lambda f: nested_repository(f, commit=False), {"nested/inner/.git": GITS_OWN}, True
    ),
    "git init inside tracked dir": Case(git_in_a_tracked_folder, {"pkg/.git": GITS_OWN}),
    ".gitattributes eol/filter tricks": Case(attribute_tricks, naive_is_wrong=True),
    "evil config: filter/extdiff/color/noprefix/hooks": Case(
        evil_configuration, naive_is_wrong=True
    ),
    "fifo + device + socket": Case(
        special_files, {"device": SPECIAL, "pkg/fifo": SPECIAL, "socket": SPECIAL}
    ),
    "huge untracked 300MB": Case(
        wrote({"a.py": "x", "pkg/core": b"\1" * 300_000}),
        {"pkg/core": "0.3 MB, more than 0.2 MB"},
        True,
        PatchPolicy(max_file_mb=0.2),
    ),
    "ignored build outputs (.so, build/)": Case(
        wrote({"a.py": "x", "pkg/_C.so": b"\0", "build/lib/x.o": "x", "build/log": "x"}),
        {
            "build/ (2 files)": "ignored by .gitignore:2 (build/)",
            "pkg/_C.so": "ignored by .gitignore:3 (*.so)",
        },
    ),
    "scratch dir": Case(
        scratch,
        {
            ".agent/note": f"{BY_SCRATCH} (/.agent/)",
            ".pytest_cache/ (2 files)": f"{BY_SCRATCH} (.pytest_cache/)",
            "pkg/__pycache__/mod.cpython-311.pyc": f"{BY_SCRATCH} (__pycache__/)",
            "pkg/mod.pyc": f"{BY_SCRATCH} (*.py[cod])",
        },
        True,
        PatchPolicy(exclude=("/.agent/",)),
    ),
    "symlinked dir replaces tracked dir": Case(folder_becomes_link),
}  # fmt: skip


def test_the_table_has_the_35_cases():
    assert len(CASES) == 35
    assert sum(case.naive_is_wrong for case in CASES.values()) == 17


@both_kinds
@pytest.mark.parametrize("name", CASES)
def test_the_patch_is_what_the_files_say(scene, tmp_path, name, kind):
    case = CASES[name]
    with opened(scene, tmp_path, kind) as bench:
        case.act(bench.folder)
        assert bench.take(*case.without, policy=case.policy) == case.lines
        assert not (bench.folder.parent / "MARKER").exists()


@pytest.mark.parametrize("name", CASES)
def test_the_usual_recipe_in_the_agents_repository_goes_wrong_where_it_is_known_to(bench, name):
    case = CASES[name]
    case.act(bench.folder)
    expected = expected_after(bench.scene.files, bench.folder, case.without)
    try:
        agent_git(bench.folder, "add", "-A")
        text = agent_git(bench.folder, "diff", "--cached", "--binary", "HEAD")
        _, checkout = bench.apply(text)
    except subprocess.CalledProcessError:
        found = None
    else:
        found = scan(checkout)
    assert (found != expected) == case.naive_is_wrong


# Ignore rules and the policy


def test_only_the_bases_ignore_files_count_the_nested_ones_too(bench):
    write_all(
        bench.folder,
        {
            "csrc/keep.so": b"\0",  # the nested file takes it back
            "csrc/other.so": b"\0",
            "csrc/gen/k.cu": "x",
            "gen/k.cu": "x",  # the nested rule is about csrc/gen alone
            "csrc/.gitignore": "*\n",
            "csrc/new.cu": "x",
            "csrc/own/.gitignore": "*\n",
            "csrc/own/k.cu": "x",
            ".gitignore": "!*.log\n",
            "debug.log": "x",
        },
    )
    excluded = bench.take(b"csrc/other.so", b"csrc/gen/", b"debug.log")
    assert excluded == (
        "csrc/gen/k.cu: ignored by csrc/.gitignore:3 (/gen/)",
        "csrc/other.so: ignored by csrc/.gitignore:1 (*.so)",
        "debug.log: ignored by .gitignore:1 (*.log)",
    )


def test_a_file_in_the_place_of_an_ignored_folder_with_rules_of_its_own_is_taken(tmp_path):
    files: Files = {".gitignore": "build/\n", "build/.gitignore": "*.o\n", "a.py": "a\n"}
    base = bake(make_history(tmp_path / "o", files, {"a.py": "b\n"}), tmp_path / "c").base
    harness = open_harness(base, tmp_path / "harness.git")
    with open_workspace(base, tmp_path) as folder:
        shutil.rmtree(folder / "build")
        write_all(folder, {"build": "now a file\n"})
        extraction = extract(base, folder, harness, PatchPolicy())
    assert (extraction.patch.files, extraction.excluded) == (("build", "build/.gitignore"), ())


def test_the_policy_takes_files_that_rules_hide_and_hides_others(bench):
    files = {"configs/new.json": "{}", "configs/deep/new.json": "{}", "notes/plan.md": "x"}
    write_all(bench.folder, files | {"pkg/notes/a.py": "x", "a.pyc": b"\0", "pkg/b.pyc": b"\0"})
    write_all(bench.folder, {"b.py": "an edit of a tracked file that the policy names\n"})
    policy = PatchPolicy(exclude=("/notes/", "b.py"), include=("configs/*.json", "/a.pyc"))
    assert bench.take(b"notes/", b"pkg/b.pyc", policy=policy) == (
        f"notes/plan.md: {BY_SCRATCH} (/notes/)",
        f"pkg/b.pyc: {BY_SCRATCH} (*.py[cod])",
    )
    plain = bench.take(b"configs/new.json", b"a.pyc", b"pkg/b.pyc")
    assert plain[1] == "configs/new.json: ignored by .gitignore:4 (configs/*.json)"


def test_thousands_of_ignored_files_are_one_line_each_folder_and_reason(bench):
    for number in range(3000):
        (bench.folder / f"{number}.log").touch()
    (bench.folder / "build" / "deep").mkdir(parents=True)
    for number in range(1000):
        (bench.folder / "build" / "deep" / f"{number}.o").touch()
    write_all(bench.folder, {"pkg/one.log": "x", "pkg/two.log": "x"})
    by_log = "ignored by .gitignore:1 (*.log)"
    extraction = bench.extract()
    assert extraction.excluded == (
        f"./ (3000 files): {by_log}",
        "build/ (1000 files): ignored by .gitignore:2 (build/)",
        f"pkg/one.log: {by_log}",
        f"pkg/two.log: {by_log}",
    )
    assert extraction.text == b""


# Sizes


def test_a_file_above_the_limit_stays_as_in_the_base_and_is_listed(bench):
    write_all(bench.folder, {"a.py": "x" * 200_001, "new.bin": b"\0" * 200_001, "b.py": "x" * 9999})
    policy = PatchPolicy(max_file_mb=0.2)
    excluded = bench.take(b"a.py", b"new.bin", policy=policy)
    assert excluded == (
        "a.py: 0.2 MB, more than 0.2 MB",
        "new.bin: 0.2 MB, more than 0.2 MB",
    )
    write_all(bench.folder, {"a.py": "x" * 200_000, "new.bin": b"\0" * 200_000})
    assert bench.take(policy=policy) == ()


def test_of_too_many_bytes_the_largest_files_stay_out(bench):
    sizes = {"a.py": 50_000, "n1": 10_000, "n2": 20_000, "n3": 30_000, "n4": 40_000}
    write_all(bench.folder, {name: "x" * size for name, size in sizes.items()})
    excluded = bench.take(b"a.py", b"n4", policy=PatchPolicy(max_total_mb=0.061))
    assert excluded == ("a.py: the patch exceeds 0.061 MB", "n4: the patch exceeds 0.061 MB")


def test_names_count_too_so_that_empty_files_are_not_free(bench):
    names = [f"{'n' * 200}{number}" for number in range(10)]
    write_all(bench.folder, dict.fromkeys(names, ""))
    left_out = bench.extract(PatchPolicy(max_total_mb=0.004)).excluded
    assert len(left_out) == 7
    assert bench.extract().excluded == ()


def test_of_too_many_files_those_beyond_stay_out(bench):
    write_all(bench.folder, {f"n{number}": "x" * number for number in range(6)})
    excluded = bench.take(b"n4", b"n5", policy=PatchPolicy(max_files=4))
    assert excluded == ("n4: the patch exceeds 4 files", "n5: the patch exceeds 4 files")


@pytest.mark.parametrize("content", ["", b"\0\1", "text\n"], ids=["empty", "binary", "text"])
def test_a_file_in_a_folder_whose_name_ends_in_a_space_is_taken(bench, content):
    write_all(bench.folder, {"x /e": content, "y /deep /run.sh": content})
    (bench.folder / "y /deep /run.sh").chmod(0o755)
    assert bench.take() == ()


def test_a_change_of_mode_alone_in_such_a_folder_is_taken(tmp_path):
    made = make_history(tmp_path / "o", {"x /run.sh": "#!\n"}, {"a.py": "b\n"})
    base = bake(made, tmp_path / "c").base
    harness = open_harness(base, tmp_path / "harness.git")
    with open_workspace(base, tmp_path) as folder:
        (folder / "x /run.sh").chmod(0o755)
        patch = extract(base, folder, harness, PatchPolicy()).patch
    run_git(made.folder, "checkout", "--quiet", made.base)
    (made.folder / "x /run.sh").chmod(0o755)
    run_git(made.folder, "add", "--all")
    assert patch.tree == run_git(made.folder, "write-tree") != base.tree


PIPES = """\
import os, sys
os.chdir(sys.argv[1])
for _ in range(1_800):
    os.mkdir("d")
    os.chdir("d")
for number in range(3_000):
    os.mkfifo(str(number))
"""


@pytest.mark.timeout(60)
def test_thousands_of_things_left_out_at_the_bottom_of_a_deep_folder_stall_nothing(bench):
    """When every folder on the way was looked at for each of them it took minutes."""
    subprocess.run([sys.executable, "-c", PIPES, bench.folder], check=True)
    assert bench.extract().excluded == ("d/ (3000 files): not a regular file",)


def test_a_sparse_file_of_gigabytes_is_listed_and_never_read(bench):
    for name in ("new.bin", "image.bin"):
        with (bench.folder / name).open("r+b" if name in BASE else "wb") as file:
            file.truncate(2 * 10**9)
    edit(bench.folder)
    with limited_memory(10**9):
        extraction = bench.extract()
        with pytest.raises(MemoryError):  # positive control: reading it would not fit
            (bench.folder / "new.bin").read_bytes()
    for name in ("new.bin", "image.bin"):
        (bench.folder / name).unlink()
    bench.judge(extraction, (b"new.bin", b"image.bin"))
    reason = "2000.0 MB, more than 20 MB"
    assert extraction.excluded == (f"image.bin: {reason}", f"new.bin: {reason}")


@contextlib.contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """Allow this process so many bytes of address space beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_policy_without_any_practical_limit_costs_no_memory(bench):
    edit(bench.folder)
    assert bench.take(policy=PatchPolicy(max_file_mb=10**9, max_total_mb=10**9)) == ()


# Names


def test_names_that_differ_in_case_alone_are_different_files(bench):
    write_all(
        bench.folder,
        {"readme": "x", "README": "edited", "Pkg/mod.py": "x", "PKG/mod.py": "y", "A.py": "z"},
    )
    assert bench.take() == ()
    assert bench.extract().patch.files == ("A.py", "PKG/mod.py", "Pkg/mod.py", "README", "readme")


@pytest.mark.parametrize("name", ["git~1", "GIT~1/x", "pkg/git~1/x", ".git ", ".git./x"])
def test_a_name_that_git_refuses_is_listed_and_the_rest_is_taken(bench, name):
    write_all(bench.folder, {name: "x", "new.py": "x"})
    assert bench.take(name.encode()) == (f"{name}: a path that git refuses",)
    data = f"100644 {'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'}\t{name}\0".encode()
    run_git(bench.harness, "update-index", "--add", "-z", "--index-info", data=data)
    listed = run_git(bench.harness, "ls-files").splitlines()
    assert "a.py" in listed  # git says nothing and leaves it out
    assert name not in listed


@pytest.mark.parametrize("name", [".GIT", ".Git", "a/.git", "pkg/.GIT", "pkg/deep/.gIt"])
def test_what_calls_itself_git_is_listed_wherever_it_lies(bench, name):
    write_all(bench.folder, {f"{name}/x": "x", f"{name}/hooks/post-commit": "x", "new.py": "x"})
    assert bench.take() == (f"{name}: {GITS_OWN}",)


def test_a_link_named_like_gits_module_list_is_listed(bench):
    (bench.folder / ".gitmodules").symlink_to("a.py")
    edit(bench.folder)
    assert bench.take(b".gitmodules") == (".gitmodules: a path that git refuses",)


def chain(folder: Path, name: str, length: int) -> None:
    """Make nested folders, each within the last, of so many bytes in all, with a file in each."""
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(length // (len(name) + 1)):
            os.mkdir(name, dir_fd=here)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = inner
            os.close(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    finally:
        os.close(here)


@both_kinds
def test_a_path_of_thousands_of_bytes_is_taken(scene, tmp_path, kind):
    with opened(scene, tmp_path, kind) as bench:
        chain(bench.folder, "n" * 200, 3400)
        chain(bench.folder, "d", 500)
        write_all(bench.folder, {"a.py": "x"})
        assert bench.take() == ()
        longest = max(len(path) for path in bench.extract().patch.files)
        assert longest > 3000
    assert not bench.folder.exists()


@both_kinds
def test_a_path_beyond_the_systems_limit_is_listed_and_the_workspace_still_removed(
    scene, tmp_path, kind
):
    with opened(scene, tmp_path, kind) as bench:
        chain(bench.folder, "n" * 200, 9000)
        edit(bench.folder)
        extraction = bench.extract()
        assert extraction.excluded
        assert all("longer than 4095 bytes" in line for line in extraction.excluded)
        assert bench.apply(extraction.text)[0] == extraction.patch.tree
        assert len(extraction.patch.files) > 15
    assert not bench.folder.exists()


@pytest.mark.parametrize("distance", range(-2, 3))
def test_a_folder_whose_path_ends_at_the_systems_limit_stops_nothing(bench, distance):
    full, rest = divmod(4095 - len(str(bench.folder)) + distance, 101)
    names = ["n" * (100 + rest)] + ["n" * 100] * (full - 1)
    here = os.open(bench.folder, os.O_RDONLY | os.O_DIRECTORY)
    for name in names:
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)
    edit(bench.folder)
    extraction = bench.extract()
    fits = distance + len("/f") <= 0
    assert len(extraction.patch.files) == (2 if fits else 1)
    assert ["longer than 4095 bytes" in line for line in extraction.excluded] == [True] * (not fits)


# Submodules


def gitlinks(checkout: Path) -> list[str]:
    lines = run_git(checkout, "ls-files", "--stage").splitlines()
    return [line for line in lines if line.startswith("160000")]


def test_files_inside_a_submodule_are_listed_and_it_stays(bench):
    write_all(bench.folder, {f"{SUBMODULE}/x.py": "x", f"{SUBMODULE}/deep/y.py": "y", "a.py": "x"})
    extraction = bench.extract()
    bench.judge(extraction, (f"{SUBMODULE}/".encode(),))
    assert extraction.excluded == (f"{SUBMODULE}/: inside a submodule",)
    assert gitlinks(bench.apply(extraction.text)[1]) == [
        f"160000 {SUBMODULE_COMMIT} 0\t{SUBMODULE}"
    ]


@pytest.mark.parametrize("how", ["removed", "file", "link"])
def test_a_submodule_can_be_removed_and_replaced(bench, how):
    (bench.folder / SUBMODULE).rmdir()
    if how == "file":
        (bench.folder / SUBMODULE).write_text("a file\n")
    if how == "link":
        (bench.folder / SUBMODULE).symlink_to("../pkg")
    extraction = bench.extract()
    bench.judge(extraction)
    assert extraction.excluded == ()
    assert extraction.patch.files == (SUBMODULE,)
    assert gitlinks(bench.apply(extraction.text)[1]) == []


# Files that move while they are looked at


@contextlib.contextmanager
def meanwhile(act: Callable[[int], object]) -> Iterator[list[int]]:
    """Do something over and over in a thread; yields the list of how often it was done."""
    over, rounds = threading.Event(), []

    def work() -> None:
        for number in itertools.count():
            if over.is_set():
                return
            act(number)
            rounds.append(number)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield rounds
    finally:
        over.set()
        thread.join()


def take_often(bench: Bench, times: int) -> list[Extraction]:
    """Every patch is verified by plain git, whatever was written meanwhile."""
    taken = [bench.extract() for _ in range(times)]
    for extraction in taken:
        again = describe_patch(bench.harness, bench.scene.base.tree, extraction.text)
        assert again.patch.tree == extraction.patch.tree
    assert bench.apply(taken[-1].text)[0] == taken[-1].patch.tree
    return taken


def test_a_file_that_changes_while_it_is_read_gives_a_patch_that_applies(bench):
    sizes = (900_000, 1_100_000, 10, 0)
    paths = [bench.folder / name for name in ("a.py", "new.py", "pkg/mod.py")]

    def rewrite(number: int) -> None:
        for path in paths:
            path.write_bytes(b"%d\n" % number * (sizes[number % 4] // 8))

    rewrite(0)
    with meanwhile(rewrite) as rounds:
        taken = take_often(bench, 12)
    assert len({extraction.text for extraction in taken}) > 1
    assert len(rounds) > 12


def test_what_vanishes_or_becomes_another_kind_during_the_scan_stops_nothing(bench):
    kinds: list[Callable[[Path], object]] = [
        lambda path: path.write_text("line\n"),
        lambda path: path.symlink_to("b.py"),
        lambda path: (path / "deep").mkdir(parents=True),
        os.mkfifo,
        lambda path: path.symlink_to(path.name),
        lambda path: write_all(path, {"deep/x": "x", "y": "y"}),
    ]
    changing = [bench.folder / name for name in ("a.py", "late-nul.bin", "new", "pkg", "z/new")]
    (bench.folder / "z").mkdir()
    for number in range(150):
        (bench.folder / f"many{number}").touch()

    def change(number: int) -> None:
        for path in changing:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            kinds[number % len(kinds)](path)

    change(0)
    with meanwhile(change) as rounds:
        taken = take_often(bench, 12)
    assert len({extraction.text for extraction in taken}) > 2
    assert len(rounds) > 12


# What cannot be read as it is


UNPRIVILEGED = """
import base64, json, os, pickle, sys
from pathlib import Path
from isobench_ray.experiment import PatchPolicy
from isobench_ray.extraction import extract
from isobench_ray.plumbing import GitError, git
from isobench_ray.workspace import open_harness, open_workspace

base = pickle.loads(Path(sys.argv[1]).read_bytes())
room = Path(sys.argv[2])
if os.getuid() == 0:
    os.setuid(65534)
harness = open_harness(base, room / "harness.git")
with open_workspace(base, room) as folder:
    (folder / "a.py").write_text("edited\\n")
    (folder / "new.py").write_text("new\\n")
    for name in ("secret", "closed", "listable"):
        (folder / name / "deep").mkdir(parents=True)
        (folder / name / "deep" / "x.py").write_text("x\\n")
    for name, mode in {
        "a.py": 0, "b.py": 0o200, "new.py": 0, "secret/deep": 0, "closed": 0o100,
        "listable": 0o400, "pkg": 0, "csrc": 0o200, ".git": 0,
    }.items():
        (folder / name).chmod(mode)
    try:
        (folder / "new.py").read_bytes()
        print("the control could read it", file=sys.stderr)
    except PermissionError:
        pass
    taken = extract(base, folder, harness, PatchPolicy())
    folder.chmod(0)
    again = extract(base, folder, harness, PatchPolicy())
print(json.dumps({
    "text": base64.b64encode(taken.text).decode(), "files": taken.patch.files,
    "excluded": taken.excluded, "same": again.text == taken.text, "left": folder.exists(),
}))
"""


def test_files_and_folders_without_permissions_are_taken_all_the_same(scene, bench):
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "base").write_bytes(pickle.dumps(scene.base))
        (place / "room").mkdir()
        (place / "room").chmod(0o777)
        argv = [sys.executable, "-c", UNPRIVILEGED, str(place / "base"), str(place / "room")]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    said = json.loads(done.stdout)
    _, checkout = bench.apply(base64.b64decode(said.pop("text")))
    new = ["closed/deep/x.py", "listable/deep/x.py", "new.py", "secret/deep/x.py"]
    assert said == {"files": ["a.py", *new], "excluded": [], "same": True, "left": False}
    edited = {b"a.py": b"edited\n", b"new.py": b"new\n"}
    edited |= {name.encode(): b"x\n" for name in new if name != "new.py"}
    assert scan(checkout) == scene.files | {name: (0o100644, c) for name, c in edited.items()}


# Things in the place of other things


@pytest.mark.parametrize("how", ["fifo", "socket", "folder", "link out", "broken link"])
def test_a_tracked_file_that_became_something_else_is_gone_or_that(bench, how):
    path = bench.folder / "pkg" / "mod.py"
    path.unlink()
    if how == "fifo":
        os.mkfifo(path)
    elif how == "socket":
        with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    elif how == "folder":
        path.mkdir()
    else:
        path.symlink_to("/etc/passwd" if how == "link out" else "/not/there")
    special = how in {"fifo", "socket"}
    assert bench.take() == (("pkg/mod.py: not a regular file",) if special else ())
    assert b"root:" not in bench.extract().text


@pytest.mark.parametrize("how", ["removed", "file", "link", "broken link"])
def test_a_workspace_that_is_no_folder_any_more_is_a_patch_that_deletes_all(scene, tmp_path, how):
    with opened(scene, tmp_path) as bench:
        outside = tmp_path / "outside"
        shutil.move(bench.folder, outside)
        edit(outside)
        if how == "file":
            bench.folder.write_text("x")
        elif how != "removed":
            bench.folder.symlink_to(outside if how == "link" else "/not/there")
        extraction = bench.extract()
        assert extraction.excluded == (".: the workspace was removed or replaced",)
        tree, checkout = bench.apply(extraction.text)
        assert (tree, scan(checkout)) == (extraction.patch.tree, {})
    assert not os.path.lexists(bench.folder)
    assert (outside / "a.py").exists()  # what lies outside is left alone


def test_links_that_lead_in_circles_are_taken_as_links(bench):
    for name, target in {
        "self": "self",
        "up": "..",
        "here": ".",
        "one": "two",
        "two": "one",
    }.items():
        (bench.folder / "pkg" / name).symlink_to(target)
    assert bench.take() == ()
    assert bench.extract().patch.files == tuple(
        f"pkg/{n}" for n in ("here", "one", "self", "two", "up")
    )


# Nothing of the agent's is executed or followed


def test_no_program_that_the_agent_planted_runs_and_the_usual_recipe_runs_them(bench):
    write_all(bench.folder, {".gitattributes": "* filter=evil diff=evil\n"})
    evil_configuration(bench.folder)
    agent_git(bench.folder, "config", "--unset", "core.worktree")
    (bench.folder / ".git" / "objects" / "info" / "alternates").unlink()
    marker = bench.folder.parent / "MARKER"
    marker.unlink(missing_ok=True)
    bench.take()
    assert not marker.exists()
    with contextlib.suppress(subprocess.CalledProcessError):
        agent_git(bench.folder, "add", "-A")
    assert marker.exists()


def test_objects_that_the_agent_planted_take_no_part(bench):
    """A blob with the id of another's content, found first, would change what is diffed."""
    edit(bench.folder)
    elsewhere = bench.place / "elsewhere"
    init_neutral(elsewhere)
    write_all(bench.folder, {".git/objects/info/alternates": f"{elsewhere}/.git/objects\n"})
    write_all(bench.folder, {".git/objects/e6/9de29bb2d1d6434b8b29ae775ad8c2e48c5391": b"garbage"})
    for pack in (bench.folder / ".git" / "objects" / "pack").iterdir():
        pack.write_bytes(b"garbage")
    write_all(bench.folder, {"new-empty": "", ".git/shallow": "garbage", ".git/grafts": "garbage"})
    assert bench.take() == ()


# The harness's own surroundings take no part


def test_git_variables_of_the_harness_take_no_part(bench, monkeypatch):
    commits(bench.folder)
    for name, value in {
        "GIT_DIR": "/nonexistent", "GIT_WORK_TREE": "/nonexistent", "GIT_INDEX_FILE": "/dev/null",
        "GIT_OBJECT_DIRECTORY": "/nonexistent", "GIT_NAMESPACE": "x", "GIT_LITERAL_PATHSPECS": "1",
        "GIT_EXTERNAL_DIFF": "false", "GIT_DIFF_OPTS": "--unified=0", "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "diff.noprefix", "GIT_CONFIG_VALUE_0": "true",
        "GIT_CONFIG_KEY_1": "core.bare", "GIT_CONFIG_VALUE_1": "nonsense",
        "GIT_CONFIG_PARAMETERS": "'diff.noprefix=true'",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    plain = subprocess.run(["git", "status"], cwd=bench.folder, capture_output=True, check=False)
    assert plain.returncode != 0  # positive control: they do break plain git
    assert bench.take() == ()


def test_the_users_git_configuration_takes_no_part(bench, monkeypatch, tmp_path):
    home = tmp_path / "home"
    settings = (
        "[core]\nexcludesFile = ~/all\nattributesFile = ~/attributes\nautocrlf = true\n"
        "fileMode = false\nsymlinks = false\nquotePath = false\nignoreCase = true\n"
        "[diff]\nnoprefix = true\nexternal = false\nrenames = copies\nalgorithm = patience\n"
        "[apply]\nwhitespace = error\nignoreWhitespace = change\n[color]\nui = always\n"
    )
    attributes = "* text eol=crlf -diff\n"
    write_all(home, {".gitconfig": settings, "all": "*\n", "attributes": attributes})
    write_all(home, {".config/git/ignore": "*\n", ".config/git/attributes": attributes})
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    for act in (edit, rename_and_edit, CASES["CRLF new+convert"].act, links):
        with contextlib.suppress(FileNotFoundError):
            act(bench.folder)
    argv = ["git", "-C", bench.folder, "status", "--porcelain", "--untracked-files"]
    plain = subprocess.run(argv, capture_output=True, check=False)
    assert b"??" not in plain.stdout  # positive control: plain git hides all new files by them
    assert bench.take() == ()


# What the record says


@both_kinds
def test_nothing_changed_is_the_empty_patch(scene, tmp_path, kind):
    with opened(scene, tmp_path, kind) as bench:
        extraction = bench.extract()
        assert bench.take() == ()
    assert extraction.text == b""
    assert extraction.patch.tree == extraction.patch.base_tree == scene.base.tree
    assert (extraction.patch.lines_added, extraction.patch.files) == (0, ())


def test_an_emptied_workspace_is_a_patch_that_deletes_all(bench):
    for entry in bench.folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    assert bench.take() == ()
    assert len(bench.extract().patch.files) == len(BASE) + len(LINKS) + 1


def test_the_patch_says_what_it_changes(bench):
    write_all(bench.folder, {"b.py": "b = 2\nc = 3\n", "new.py": "1\n2\n"})
    text_only = bench.extract().patch
    write_all(bench.folder, {"image.bin": b"\0"})
    with_binary = bench.extract().patch
    assert text_only.files == ("b.py", "new.py")
    assert (text_only.lines_added, text_only.lines_removed) == (4, 1)
    assert (with_binary.lines_added, with_binary.lines_removed) == (None, None)


def test_extracting_twice_gives_the_same_and_leaves_nothing_beside_objects(bench):
    names = sorted(path.name for path in bench.harness.iterdir())
    rename_and_edit(bench.folder)
    assert bench.extract() == bench.extract()
    assert sorted(path.name for path in bench.harness.iterdir()) == names


def test_the_humans_edit_done_by_an_agent_is_the_humans_tree(bench):
    write_all(bench.folder, HUMAN)
    extraction = bench.extract()
    assert extraction.patch.tree == bench.scene.baked.resolved.human_tree
    assert extraction.text == bench.scene.baked.resolved.human_diff


# Patches that come as text


def test_the_humans_diff_gives_the_humans_tree(bench):
    resolved = bench.scene.baked.resolved
    extraction = describe_patch(bench.harness, resolved.base_tree, resolved.human_diff)
    assert extraction.patch.tree == resolved.human_tree
    assert extraction.text == resolved.human_diff


def test_a_patch_that_does_not_apply_is_kept_with_gits_words(bench):
    text = b"--- a/a.py\n+++ b/a.py\n@@ -1,2 +1,2 @@\n line 0\n-line X\n+line Y\n"
    extraction = describe_patch(bench.harness, bench.scene.base.tree, text)
    assert extraction.text == text
    assert extraction.patch.tree is None
    assert "a.py: patch does not apply" in extraction.patch.apply_error
    assert extraction.patch.base_tree == bench.scene.base.tree
    assert extraction.patch.size_bytes == len(text)


def test_application_is_strict_no_fuzz_no_offset_in_other_words_no_partial_result(bench):
    good = b"--- a/b.py\n+++ b/b.py\n@@ -1 +1 @@\n-b = 1\n+b = 2\n"
    fuzzy = b"--- a/a.py\n+++ b/a.py\n@@ -1,4 +1,4 @@\n line X\n line 1\n-line 2\n+two\n line 3\n"
    spaces = b"--- a/pkg/mod.py\n+++ b/pkg/mod.py\n@@ -1 +1 @@\n-value  = 1\n+value = 2\n"
    for bad in (fuzzy, spaces):
        assert describe_patch(bench.harness, bench.scene.base.tree, bad).patch.tree is None
        assert describe_patch(bench.harness, bench.scene.base.tree, good + bad).patch.tree is None
    taken = describe_patch(bench.harness, bench.scene.base.tree, good)
    assert taken.patch.tree == bench.apply(good)[0]
    (bench.place / "a.py").write_text(BASE["a.py"])
    loose = ["patch", "--silent", "--dry-run", "a.py"]
    if shutil.which("patch"):  # positive control: patch(1) would have taken it with fuzz
        subprocess.run(loose, cwd=bench.place, input=fuzzy, capture_output=True, check=True)


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/outside", ".git/hooks/pre-commit", "a/../../outside"]
)
def test_a_patch_that_leaves_the_tree_does_not_apply(bench, path):
    text = f"--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n".encode()
    extraction = describe_patch(bench.harness, bench.scene.base.tree, text)
    assert extraction.patch.tree is None
    assert extraction.patch.apply_error


def handed_in(bench: Bench, text: bytes, **limits: float) -> str | None:
    policy = PatchPolicy.model_validate(limits)
    return describe_patch(bench.harness, bench.scene.base.tree, text, policy).patch.apply_error


def test_a_patch_that_is_handed_in_is_held_to_the_sizes_of_files(bench):
    content = b"".join(b"%06d\n" % number for number in range(3_000))
    lines = b"".join(b"+%06d\n" % number for number in range(3_000))
    text = b"--- /dev/null\n+++ b/new\n@@ -0,0 +1,3000 @@\n" + lines
    assert handed_in(bench, text) is None
    assert len(content) == 21_000
    assert "0.021 MB in one file" in (handed_in(bench, text, max_file_mb=0.02) or "")
    assert "patch.max_total_mb" in (handed_in(bench, text, max_total_mb=0.02) or "")
    both = text + text.replace(b"b/new", b"b/more")
    assert "patch.max_files" in (handed_in(bench, both, max_files=1) or "")


def test_a_small_patch_that_declares_a_huge_file_is_refused_before_git_sees_it(bench):
    data = zlib.compress(bytes(10**8), 9)
    lines = [data[at : at + 52] for at in range(0, len(data), 52)]
    encoded = b"".join(_length(line) + base64.b85encode(line, pad=True) + b"\n" for line in lines)
    header = b"diff --git a/n b/n\nnew file mode 100644\nindex %s..%s\nGIT binary patch\n"
    text = header % (b"0" * 40, b"1" * 40) + b"literal %d\n" % 10**8 + encoded + b"\nliteral 0\n"
    assert len(text) < 200_000
    assert "100.0 MB in one file" in (handed_in(bench, text + b"HcmV?d00001\n\n") or "")


def _length(line: bytes) -> bytes:
    """Git's letter for the number of bytes in a line of a binary patch."""
    return bytes([ord("A") + len(line) - 1 if len(line) <= 26 else ord("a") + len(line) - 27])


def test_git_gets_no_more_memory_for_a_patch_than_it_is_told(bench):
    text = b"--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+x\n"
    apply = ("apply", "--cached", "--whitespace=nowarn")
    env = {"GIT_INDEX_FILE": str(bench.place / "index")}
    git(bench.harness, *apply, data=text, env=env, memory_bytes=10**9)  # the control
    with pytest.raises(GitError):
        git(bench.harness, *apply, data=text, env=env, memory_bytes=3_000_000)


def test_text_that_is_no_patch_at_all_does_not_apply(bench):
    text = b"I could not find anything to improve.\n"
    extraction = describe_patch(bench.harness, bench.scene.base.tree, text)
    assert extraction.patch.tree is None
    assert extraction.patch.apply_error


def test_an_empty_text_gives_the_base_tree(bench):
    tree = bench.scene.base.tree
    assert describe_patch(bench.harness, tree, b"").patch.tree == tree
