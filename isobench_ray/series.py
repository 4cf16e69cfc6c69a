"""Patch series: a folder with `tree/` and `patches/`, built into the same commits everywhere.

For repositories that are part of an experiment's own files. `tree/` is the first commit, `patches/`
are mails as `git format-patch` writes them.
"""

from __future__ import annotations

import email.message
import email.parser
import email.policy
import email.utils
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

from isobench_ray.plumbing import GitError, git, git_word, objects_of_files


def is_series(place: Path) -> bool:
    """Whether a folder is a patch series."""
    parts = (place / "tree").is_dir() and (place / "patches").is_dir()
    return parts and not (place / ".git").exists()


def build_series(folder: Path, git_dir: Path) -> str:
    """Build a patch series into a git directory as branch main; the last commit's hash.

    Every file of `tree/` becomes mode 100644 with its bytes as they are. The mails are taken in
    order of file name; the first is a message alone, that of the commit of `tree/`; each further
    one is applied. Author, committer and date come from the mails. So the hashes are functions of
    the folder's content alone.

    Raises:
        GitError: a patch does not apply.
        OSError: the folder cannot be read.
    """
    with tempfile.TemporaryDirectory(dir=git_dir) as scratch:
        commit = _commit_all(folder, git_dir, {"GIT_INDEX_FILE": f"{scratch}/index"})
    git(git_dir, "update-ref", "refs/heads/main", commit)
    return commit


def _commit_all(folder: Path, git_dir: Path, env: dict[str, str]) -> str:
    """Commit the tree, and each mail upon it."""
    root = folder / "tree"
    git(git_dir, "read-tree", "--empty", env=env)
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    paths = [path for path in paths if "__pycache__" not in path]
    blobs = objects_of_files(git_dir, [root / path for path in paths])
    entries = zip(blobs, paths, strict=True)
    index = "".join(f"100644 {blob}\t{path}\n" for blob, path in entries)
    git(git_dir, "update-index", "--add", "--index-info", data=index.encode(), env=env)
    commit = None
    for path in sorted((folder / "patches").glob("*.patch")):
        mail = path.read_bytes()
        if commit is not None:
            git(git_dir, "apply", "--cached", "--whitespace=nowarn", data=mail, env=env)
        commit = _commit_index(git_dir, env, _series_commit(mail), commit)
    if commit is None:
        raise GitError(f"{folder / 'patches'} holds no *.patch")
    return commit


class _SeriesCommit(NamedTuple):
    name: str
    address: str
    date: str
    message: str


def _series_commit(mail: bytes) -> _SeriesCommit:
    message = email.parser.BytesParser(policy=email.policy.default).parsebytes(mail)
    name, address = email.utils.parseaddr(str(message["From"]))
    subject = re.sub(r"^\[PATCH[^\]]*\]\s*", "", str(message["Subject"]))
    body = re.split(r"^---$", mail.decode().split("\n\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[
        0
    ].strip()
    text = f"{subject}\n\n{body}\n" if body else f"{subject}\n"
    return _SeriesCommit(name, address, str(message["Date"]), text)


def _commit_index(
    git_dir: Path, env: dict[str, str], commit: _SeriesCommit, parent: str | None
) -> str:
    tree = git_word(git_dir, "write-tree", env=env)
    person = {
        f"GIT_{role}_{field}": value
        for role in ("AUTHOR", "COMMITTER")
        for field, value in zip(("NAME", "EMAIL", "DATE"), commit[:3], strict=True)
    }
    parents = ("-p", parent) if parent else ()
    message = commit.message.encode()
    return git_word(git_dir, "commit-tree", tree, *parents, data=message, env=env | person)
