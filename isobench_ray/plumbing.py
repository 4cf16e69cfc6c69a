"""Git's plumbing as functions: no user or system configuration, attributes or hooks take part."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

NEUTRAL_ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=30",
    "LC_ALL": "C.UTF-8",
}
_NEUTRAL_OPTIONS = (
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.autocrlf=false",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.quotePath=true",
    "-c",
    "gc.auto=0",
    "-c",
    "http.lowSpeedLimit=1000",
    "-c",
    "http.lowSpeedTime=60",
    "-c",
    "safe.directory=*",
)
NEUTRAL_ATTRIBUTES = "* -text !eol -ident !filter !working-tree-encoding !diff !merge !crlf\n"
"""For info/attributes, which wins over .gitattributes: bytes stay as they are."""


_LIMITED = 'ulimit -v "$0" && exec "$@"'
APPLY_MEMORY_BYTES = 4_000_000_000
"""Address space of `git apply`: a diff of a megabyte can declare a file of gigabytes."""


_HEADER_IN_SPACED_FOLDER = re.compile(rb"^diff --git a/(.* /.*) b/\1$", re.MULTILINE)
"""Of a path in a folder named "x ": git reads this header back only in quotes."""


class GitError(Exception):
    """Git ended with an error; the message is what it said."""


def git(
    git_dir: Path | None,
    *arguments: str,
    data: bytes | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    accept: tuple[int, ...] = (0,),
    memory_bytes: int | None = None,
) -> bytes:
    """Run git on a git directory and return its output.

    With `memory_bytes` git gets no more address space: for input that an agent wrote.

    Raises:
        GitError: the exit status is none of those to accept.
    """
    variables = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    variables |= NEUTRAL_ENVIRONMENT | (env or {})
    if git_dir is not None:
        variables["GIT_DIR"] = str(git_dir)
    argv = ["git", *_NEUTRAL_OPTIONS, *arguments]
    if memory_bytes is not None:
        argv = ["/bin/sh", "-c", _LIMITED, str(memory_bytes // 1024), *argv]
    done = subprocess.run(
        argv,
        input=data,
        capture_output=True,
        env=variables,
        cwd=cwd,
        check=False,
    )
    if done.returncode not in accept:
        words = done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}"
        raise GitError(words)
    return done.stdout


def git_word(git_dir: Path | None, *arguments: str, **options: object) -> str:
    """The output of git as one stripped string."""
    return git(git_dir, *arguments, **options).decode().strip()  # type: ignore[arg-type]


def init_bare(git_dir: Path) -> None:
    """Make an empty bare git directory whose attributes are neutral."""
    git_dir.mkdir(parents=True, exist_ok=True)
    git(None, "init", "--quiet", "--bare", "--template=", str(git_dir))
    (git_dir / "info").mkdir(exist_ok=True)
    (git_dir / "info" / "attributes").write_text(NEUTRAL_ATTRIBUTES)


def diff_trees(git_dir: Path, old: str, new: str) -> bytes:
    """The binary-safe diff between two trees, which `git apply` takes."""
    options = ("-p", "--binary", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv")
    text = git(git_dir, "diff-tree", *options, old, new)
    return _HEADER_IN_SPACED_FOLDER.sub(rb'diff --git "a/\1" "b/\1"', text)


def numstat(git_dir: Path, old: str, new: str) -> list[tuple[str, int | None, int | None]]:
    """(path, lines added, lines removed) between two trees; None for binary files."""
    output = git(git_dir, "diff-tree", "-r", "--numstat", "-z", "--no-renames", old, new)
    rows = []
    for entry in output.split(b"\0")[:-1]:
        added, removed, path = entry.split(b"\t", 2)
        counts = [None if word == b"-" else int(word) for word in (added, removed)]
        rows.append((path.decode(errors="backslashreplace"), counts[0], counts[1]))
    return rows


def changed_sizes(git_dir: Path, old: str, new: str) -> list[int]:
    """Bytes of each file that is new or other in the second tree."""
    lines = list_files(git(git_dir, "diff-tree", "-r", "-z", "--no-renames", old, new))[::2]
    oids = [oid for _, mode, _, oid, *_ in map(bytes.split, lines) if mode[:2] in (b"10", b"12")]
    asked = ("cat-file", "--batch-check=%(objectsize)")
    return [int(n) for n in git(git_dir, *asked, data=b"\n".join(oids)).split()]


def objects_of_files(git_dir: Path, files: Sequence[Path]) -> list[str]:
    """Store files as they are, as blobs; their ids. No path may hold a line break."""
    names = "".join(f"{file}\n" for file in files).encode()
    storing = ("hash-object", "-w", "--no-filters", "--stdin-paths")
    return git(git_dir, *storing, data=names).decode().split()


def apply_to_tree(git_dir: Path, base_tree: str, patch: bytes) -> str:
    """The tree after strict application of a diff to a tree: no fuzz, no partial result.

    Raises:
        GitError: it does not apply, in git's words.
    """
    if not patch.strip():
        return base_tree
    with tempfile.TemporaryDirectory(dir=git_dir) as folder:
        env = {"GIT_INDEX_FILE": f"{folder}/index"}
        git(git_dir, "read-tree", base_tree, env=env)
        apply = ("apply", "--cached", "--whitespace=nowarn")
        git(git_dir, *apply, data=patch, env=env, memory_bytes=APPLY_MEMORY_BYTES)
        return git_word(git_dir, "write-tree", env=env)


def checkout_tree(git_dir: Path, tree: str, folder: Path) -> None:
    """Write the files of a tree into an empty folder."""
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=git_dir) as temporary:
        env = {"GIT_INDEX_FILE": f"{temporary}/index", "GIT_WORK_TREE": str(folder)}
        git(git_dir, "read-tree", tree, env=env)
        git(git_dir, "checkout-index", "--all", "--force", env=env, cwd=folder)


def read_objects(git_dir: Path, oids: Sequence[str]) -> Iterator[bytes]:
    """Contents of objects, in order.

    Raises:
        GitError: one is missing.
    """
    output = git(git_dir, "cat-file", "--batch", data="".join(f"{o}\n" for o in oids).encode())
    at = 0
    for oid in oids:
        end = output.index(b"\n", at)
        words = output[at:end].split()
        if len(words) != 3:
            raise GitError(f"{oid} is {words[-1].decode()}")
        size = int(words[2])
        yield output[end + 1 : end + 1 + size]
        at = end + size + 2


def list_files(output: bytes) -> Sequence[bytes]:
    """Entries of NUL-terminated output."""
    return output.split(b"\0")[:-1]
