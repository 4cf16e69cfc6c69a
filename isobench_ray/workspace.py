"""The Workspace: a checkout of the base commit with no way to the human's, and what came of it.

The agent gets a git directory with one neutral commit whose objects are exactly the base tree. The
harness keeps a second git directory outside of the agent's reach and takes the patch with that
one, so nothing that the agent does to its own can change what is taken. The diff is verified: it
is applied to the base again and must give the same tree.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from isobench_ray.failure import FailureClass, fail
from isobench_ray.plumbing import (
    NEUTRAL_ATTRIBUTES,
    GitError,
    apply_to_tree,
    diff_trees,
    git,
    git_word,
    init_bare,
    list_files,
    numstat,
)
from isobench_ray.repository import Base
from isobench_ray.schema import sha256_hex
from isobench_ray.trial import Patch


class Extraction(NamedTuple):
    """A patch and its text."""

    patch: Patch
    text: bytes


def open_harness(base: Base, folder: Path) -> Path:
    """A bare git directory with the base's objects, for the harness alone."""
    init_bare(folder)
    git(folder, "index-pack", "--stdin", data=base.pack)
    return folder


class Workspace:
    """A checkout for an agent, at `folder`; the harness's git directory is elsewhere."""

    def __init__(self, base: Base, folder: Path, harness: Path) -> None:
        self.base, self.folder, self._harness = base, folder, harness

    def extract(self) -> Extraction:
        """The difference between the files as they are now and the base, as a verified patch.

        Raises:
            FailureRaised: tree_mismatch, when the diff does not give the tree that it came from.
        """
        env = {
            "GIT_INDEX_FILE": str(self._harness / "workspace-index"),
            "GIT_WORK_TREE": str(self.folder),
        }
        git(self._harness, "read-tree", self.base.tree, env=env)
        replaced = self._drop_special_files(env)
        git(self._harness, "add", "--update", ".", env=env, cwd=self.folder)
        files, excluded = self._untracked(env)
        names = b"".join(name + b"\0" for name in files)
        update = ("update-index", "--add", "-z", "--stdin")
        git(self._harness, *update, data=names, env=env, cwd=self.folder)
        tree = git_word(self._harness, "write-tree", env=env)
        text = diff_trees(self._harness, self.base.tree, tree)
        extraction = describe_patch(self._harness, self.base.tree, text, replaced + excluded)
        if extraction.patch.tree != tree:
            raise fail(
                FailureClass.TREE_MISMATCH,
                f"the patch gives tree {extraction.patch.tree}, the workspace holds {tree}",
                extraction.patch.apply_error,
            )
        return extraction

    def _drop_special_files(self, env: dict[str, str]) -> tuple[str, ...]:
        """Take tracked files off the index that the agent replaced by a pipe, socket or device."""
        tracked = list_files(git(self._harness, "ls-files", "-z", env=env, cwd=self.folder))
        special = [name for name in tracked if self._is_special(name)]
        names = b"".join(name + b"\0" for name in special)
        remove = ("update-index", "--force-remove", "-z", "--stdin")
        git(self._harness, *remove, data=names, env=env, cwd=self.folder)
        shown = [name.decode(errors="backslashreplace") for name in special]
        return tuple(f"{name}: not a regular file" for name in shown)

    def _is_special(self, name: bytes) -> bool:
        """Whether a path exists and is no file, link or folder."""
        try:
            mode = (self.folder / os.fsdecode(name)).lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return False
        return not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode))

    def _untracked(self, env: dict[str, str]) -> tuple[list[bytes], tuple[str, ...]]:
        """New files by the base's ignore rules, not the agent's; and what is left out."""
        rules = self._harness / "base-ignore"
        with contextlib.suppress(GitError):
            rules.write_bytes(git(self._harness, "show", f"{self.base.tree}:.gitignore"))
        options = [f"--exclude-from={rules}"] if rules.exists() else []
        listing = ("ls-files", "--others", "-z", *options)
        found = list_files(git(self._harness, *listing, env=env, cwd=self.folder))
        files, excluded = [], []
        for name in found:
            path = name.rstrip(b"/").decode(errors="backslashreplace")
            if name == b".git" or name.startswith(b".git/"):
                continue
            if name.endswith(b"/"):
                excluded.append(f"{path}: nested repository")
            elif self._is_special(name):
                excluded.append(f"{path}: not a regular file")
            else:
                files.append(name)
        return files, tuple(excluded)


@contextlib.contextmanager
def open_workspace(base: Base, folder: Path, harness: Path) -> Iterator[Workspace]:
    """A fresh workspace, removed at the end whatever happens."""
    git_dir = folder / ".git"
    try:
        folder.mkdir(parents=True)
        git(None, "init", "--quiet", "--template=", "--initial-branch=main", str(folder))
        (git_dir / "info").mkdir(exist_ok=True)
        (git_dir / "info" / "attributes").write_text(NEUTRAL_ATTRIBUTES)
        git(git_dir, "index-pack", "--stdin", data=base.pack)
        git(git_dir, "config", "core.logAllRefUpdates", "false")
        git(git_dir, "config", "user.name", "agent")
        git(git_dir, "config", "user.email", "agent@isobench-ray.invalid")
        git(git_dir, "update-ref", "refs/heads/main", base.commit)
        git(git_dir, "reset", "--quiet", "--hard", cwd=folder, env={"GIT_WORK_TREE": str(folder)})
        yield Workspace(base, folder, harness)
    finally:
        remove_tree(folder)


def describe_patch(
    harness: Path, base_tree: str, text: bytes, excluded: tuple[str, ...] = ()
) -> Extraction:
    """Apply a diff to the base, strictly, and say what it is. One that does not apply is kept."""
    patch = Patch(
        sha256=sha256_hex(text),
        size_bytes=len(text),
        base_tree=base_tree,
        tree=None,
        excluded=excluded,
    )
    try:
        tree = apply_to_tree(harness, base_tree, text)
    except GitError as error:
        return Extraction(patch.model_copy(update={"apply_error": str(error)}), text)
    rows = numstat(harness, base_tree, tree)
    facts = {
        "tree": tree,
        "files": tuple(row[0] for row in rows),
        "lines_added": _total([row[1] for row in rows]),
        "lines_removed": _total([row[2] for row in rows]),
    }
    return Extraction(patch.model_copy(update=facts), text)


def _total(counts: list[int | None]) -> int | None:
    """The sum; None as soon as one count is unknown (binary files)."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def remove_tree(folder: Path) -> None:
    """Remove a folder even if the agent took away its write permissions."""
    if not folder.exists():
        return
    folder.chmod(0o700)
    for place, folders, _ in os.walk(folder):
        for name in folders:
            inner = Path(place) / name
            if not inner.is_symlink():
                inner.chmod(0o700)
    shutil.rmtree(folder)
