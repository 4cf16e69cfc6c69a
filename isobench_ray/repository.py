"""The driver's mirrors: where the histories of tasks can be had, and what they say of a task.

One bare mirror per repository under the user's cache folder, behind a lock. A history comes from a
URL, a bundle, a local repository (borrowed through alternates, never copied or written), or a
*patch series*: a folder with `tree/` (the first commit) and `patches/` (mails as `git
format-patch` writes them), rebuilt here into the same commits on every machine.
"""

from __future__ import annotations

import contextlib
import email.message
import email.parser
import email.policy
import email.utils
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import git as gitpython

from isobench_ray.errors import UserError
from isobench_ray.failure import FailureClass, fail
from isobench_ray.plumbing import (
    NEUTRAL_ENVIRONMENT,
    GitError,
    diff_trees,
    git,
    git_word,
    init_bare,
)
from isobench_ray.schema import sha256_hex
from isobench_ray.task import Task

_NEUTRAL_PERSON = {
    "GIT_AUTHOR_NAME": "isobench-ray",
    "GIT_AUTHOR_EMAIL": "workspace@isobench-ray.invalid",
    "GIT_AUTHOR_DATE": "2000-01-01T00:00:00+0000",
    "GIT_COMMITTER_NAME": "isobench-ray",
    "GIT_COMMITTER_EMAIL": "workspace@isobench-ray.invalid",
    "GIT_COMMITTER_DATE": "2000-01-01T00:00:00+0000",
}


class Base(NamedTuple):
    """A tree as a one-commit history that holds nothing else: what a worker gets of a task."""

    tree: str
    """Git tree id of the base commit."""
    commit: str
    """The neutral, parentless commit over that tree."""
    pack: bytes
    """A git pack of exactly that commit and its tree's objects."""


class ResolvedTask(NamedTuple):
    """What a repository says of a task."""

    base_tree: str
    human_tree: str
    human_diff: bytes


class Repository:
    """The mirror of one repository."""

    def __init__(self, url: str, place: str, mirror: Path) -> None:
        self._url, self._place, self._mirror = url, place, mirror

    def resolve(self, task: Task) -> ResolvedTask:
        """Trees of base and human, and the human's diff.

        Raises:
            FailureRaised: repository_unavailable, commit_unknown or base_not_parent.
        """
        with self._locked():
            base, human = self._commit(task.base_commit), self._commit(task.human_commit)
            self._refuse_missing_objects(base.tree.hexsha, human.tree.hexsha)
        if base.hexsha not in [parent.hexsha for parent in human.parents]:
            parents = ", ".join(parent.hexsha for parent in human.parents) or "none"
            raise fail(
                FailureClass.BASE_NOT_PARENT,
                f"{task.task_id}: base_commit {base.hexsha} is not a parent of human_commit "
                f"{human.hexsha}; its parents: {parents}",
            )
        trees = base.tree.hexsha, human.tree.hexsha
        return ResolvedTask(*trees, human_diff=diff_trees(self._mirror, *trees))

    def bake(self, tree: str) -> Base:
        """The one-commit history of a tree."""
        arguments = ("commit-tree", tree, "-m", "Initial state")
        commit = git_word(self._mirror, *arguments, env=_NEUTRAL_PERSON)
        pack = git(
            self._mirror, "pack-objects", "--quiet", "--revs", "--stdout", data=commit.encode()
        )
        return Base(tree, commit, pack)

    def _refuse_missing_objects(self, *trees: str) -> None:
        """A partial clone has commits whose files it lacks.

        Raises:
            FailureRaised: repository_unavailable.
        """
        try:
            git(self._mirror, "rev-list", "--objects", "--quiet", "--missing=error", *trees)
        except GitError as error:
            raise fail(
                FailureClass.REPOSITORY_UNAVAILABLE,
                f"{self._url} at {self._place} lacks files of a commit (a partial clone?): {error}",
            ) from error

    def _commit(self, commit: str) -> gitpython.Commit:
        """A commit, fetched if the mirror lacks it."""
        tried = ["the mirror"]
        for arguments in (None, _ALL_REFS, (commit,)):
            if arguments is not None:
                if self._is_borrowed():
                    break
                tried.append(f"fetch {' '.join(arguments)} from {self._place}")
                try:
                    git(self._mirror, "fetch", "--quiet", "--no-tags", self._place, *arguments)
                except GitError as error:
                    if arguments is _ALL_REFS:
                        raise fail(
                            FailureClass.REPOSITORY_UNAVAILABLE,
                            f"cannot fetch {self._url} from {self._place}: {error}",
                        ) from error
                    tried[-1] += f" ({error})"
            with contextlib.suppress(GitError):
                git(self._mirror, "cat-file", "-e", f"{commit}^{{commit}}")
                repo = gitpython.Repo(self._mirror)
                repo.git.update_environment(
                    **NEUTRAL_ENVIRONMENT,
                    GIT_DIR=str(self._mirror),
                    GIT_OBJECT_DIRECTORY=str(self._mirror / "objects"),
                    GIT_ALTERNATE_OBJECT_DIRECTORIES="",
                )
                return repo.commit(commit)
        raise fail(
            FailureClass.COMMIT_UNKNOWN,
            f"{self._url} at {self._place} has no commit {commit}; tried: {'; '.join(tried)}",
        )

    def _is_borrowed(self) -> bool:
        """Whether all objects that the place has are in the mirror already."""
        return Path(self._place).is_dir()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the mirror's lock; make the mirror if there is none.

        Raises:
            UserError: the cache folder cannot be written.
        """
        name = self._mirror.with_name(f"{self._mirror.name}.lock")
        try:
            self._mirror.parent.mkdir(parents=True, exist_ok=True)
            lock = name.open("w")
        except OSError as error:
            raise UserError(
                f"{self._mirror.parent}: cannot write the cache of repositories: {error.strerror}; "
                "name another folder in the environment variable XDG_CACHE_HOME"
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._prepare()
            yield

    def _prepare(self) -> None:
        if not (self._mirror / "HEAD").exists():
            init_bare(self._mirror)
        place = Path(self._place)
        if _is_series(place):
            try:
                build_series(place, self._mirror)
            except GitError as error:
                raise fail(
                    FailureClass.REPOSITORY_UNAVAILABLE,
                    f"the patch series {place} cannot be built: {error}",
                ) from error
        elif place.is_dir():
            try:
                objects = git_word(
                    None,
                    *("-C", str(place), "rev-parse", "--git-path", "objects"),
                    env={"GIT_CEILING_DIRECTORIES": str(place.parent)},
                )
            except GitError as error:
                raise fail(
                    FailureClass.REPOSITORY_UNAVAILABLE,
                    f"{place} is neither a git repository nor a patch series: {error}",
                ) from error
            alternates = self._mirror / "objects" / "info" / "alternates"
            alternates.parent.mkdir(exist_ok=True)
            alternates.write_text(f"{place.joinpath(objects).resolve()}\n")


_ALL_REFS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")


def open_repository(url: str, place: str | None, cache: Path) -> Repository:
    """The mirror of a repository whose history can be had at `place` (default: at its URL)."""
    source = place or url
    name = re.sub(r"[^A-Za-z0-9._-]", "-", url.rstrip("/").removesuffix(".git").rsplit("/", 1)[-1])
    return Repository(url, source, cache / f"{name}-{sha256_hex(f'{url} {source}'.encode())[:12]}")


def cache_folder() -> Path:
    """Where mirrors lie: isobench-ray/repositories under the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "isobench-ray" / "repositories"


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
    root = folder / "tree"
    env = {"GIT_INDEX_FILE": str(git_dir / "series-index")}
    git(git_dir, "read-tree", "--empty", env=env)
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    paths = [path for path in paths if "__pycache__" not in path]
    names = "".join(f"{root / path}\n" for path in paths)
    blobs = git(git_dir, "hash-object", "-w", "--no-filters", "--stdin-paths", data=names.encode())
    entries = zip(blobs.decode().split(), paths, strict=True)
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
    git(git_dir, "update-ref", "refs/heads/main", commit)
    return commit


class _SeriesCommit(NamedTuple):
    name: str
    address: str
    date: str
    message: str


def _is_series(place: Path) -> bool:
    return (place / "tree").is_dir() and (place / "patches").is_dir()


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
