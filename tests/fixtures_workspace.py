"""What tests of workspaces and extraction share: an agent's git, and a second opinion on patches.

The second opinion shares nothing with the package: it scans folders on its own, by the stated
policy (regular files and links, no git's own), and lets plain git apply the patch to plain git's
checkout of the base.
"""

from __future__ import annotations

import functools
import os
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from isobench_ray.overlay import why_no_overlay
from tests.fixtures_git import run_git

Scan = dict[bytes, tuple[int, bytes]]
"""Git's mode and the bytes (of a link: its target), by path."""

NEUTRAL = "* -text !eol -ident !filter !working-tree-encoding !diff !merge !crlf\n"
"""Attributes under which plain git takes bytes as they are."""

both_kinds = pytest.mark.parametrize("kind", ["copy", "overlay"])


def require_kind(kind: str, folder: Path) -> None:
    """Skip the test, loudly, where workspaces of a kind cannot be made below a folder."""
    why = _why_no_overlay(folder.parent) if kind == "overlay" else None
    if why is not None:
        pytest.skip(f"NO OVERLAY ON THIS MACHINE, overlay workspaces are untested here: {why}")


@functools.cache
def _why_no_overlay(folder: Path) -> str | None:
    return why_no_overlay(folder)


def agent_git(folder: Path, *arguments: str | bytes) -> bytes:
    """Git as an agent has it: the workspace's own configuration and nobody else's.

    Raises:
        CalledProcessError: git ended with an error.
    """
    env = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": str(folder.parent),
    }
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True,
        check=True,
    )  # fmt: skip
    return done.stdout


def init_neutral(folder: Path) -> None:
    """Make a repository whose git takes bytes as they are, whatever .gitattributes says."""
    folder.mkdir(parents=True)
    run_git(folder, "init", "--quiet", "--initial-branch=main")
    run_git(folder, "config", "core.fsync", "none")
    (folder / ".git" / "info").mkdir(exist_ok=True)
    (folder / ".git" / "info" / "attributes").write_text(NEUTRAL)


def check_out(origin: Path, commit: str, folder: Path) -> Path:
    """Plain git's checkout of a commit, byte by byte; `cp -a` makes another as clean."""
    init_neutral(folder)
    run_git(folder, "config", "core.checkStat", "minimal")
    run_git(folder, "config", "core.trustCtime", "false")
    run_git(folder, "fetch", "--quiet", str(origin), "+refs/*:refs/origin/*")
    run_git(folder, "checkout", "--quiet", "--detach", commit)
    return folder


def tree_after(checkout: Path, text: bytes) -> str:
    """Apply a patch to a checkout with plain git, to its files too; the tree's id."""
    if text:
        run_git(checkout, "apply", "--index", "--whitespace=nowarn", "-", data=text)
    return run_git(checkout, "write-tree")


def scan(folder: Path, without: Iterable[bytes] = ()) -> Scan:
    """All files and links below a folder, but git's own, special files and what is named.

    A name in `without` that ends in a slash stands for all that is below it.
    """
    root, found, folders = os.fsencode(folder) + b"/", {}, [b""]
    left_out = {path.rstrip(b"/") for path in without}
    while folders:
        inside = folders.pop()
        for entry in os.scandir(root + inside):
            path, status = inside + entry.name, entry.stat(follow_symlinks=False)
            if path in left_out or entry.name.lower() == b".git":
                continue
            if stat.S_ISDIR(status.st_mode):
                folders.append(path + b"/")
            elif stat.S_ISLNK(status.st_mode):
                found[path] = (0o120000, os.readlink(entry.path))  # noqa: PTH115 - bytes
            elif stat.S_ISREG(status.st_mode):
                with open(entry.path, "rb") as file:  # noqa: PTH123 - bytes
                    content = file.read()
                mode = 0o100755 if status.st_mode & stat.S_IXUSR else 0o100644
                found[path] = (mode, content)
    return found


def expected_after(base: Scan, workspace: Path, without: Iterable[bytes] = ()) -> Scan:
    """What a patch must give: the workspace's files, and what is left out as it is in the base."""
    left_out = tuple(without)
    kept = {
        path: content
        for path, content in base.items()
        if any(path == name or (name[-1:] == b"/" and path.startswith(name)) for name in left_out)
    }
    return scan(workspace, left_out) | kept
