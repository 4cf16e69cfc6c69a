"""The driver's mirrors: where the histories of tasks can be had, and what they say of a task.

One bare mirror per repository under the user's cache folder, behind a lock. A history comes from a
URL, a bundle, a local repository (borrowed through alternates, never copied or written), or a
*patch series* (series.py). Only the driver has mirrors; what a worker gets of one is a `Base`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import git as gitpython

from isobench_ray.addresses import join_url, repository_name
from isobench_ray.base import GITLINK, Base, Entry, make_index
from isobench_ray.errors import FailureRaised, UserError
from isobench_ray.failure import FailureClass, fail
from isobench_ray.plumbing import (
    NEUTRAL_ENVIRONMENT,
    GitError,
    diff_trees,
    git,
    git_word,
    init_bare,
    list_files,
    read_objects,
)
from isobench_ray.schema import sha256_hex
from isobench_ray.series import build_series, is_series
from isobench_ray.task import PARENT, Task

_NEUTRAL_PERSON = {
    "GIT_AUTHOR_NAME": "isobench-ray",
    "GIT_AUTHOR_EMAIL": "workspace@isobench-ray.invalid",
    "GIT_AUTHOR_DATE": "2000-01-01T00:00:00+0000",
    "GIT_COMMITTER_NAME": "isobench-ray",
    "GIT_COMMITTER_EMAIL": "workspace@isobench-ray.invalid",
    "GIT_COMMITTER_DATE": "2000-01-01T00:00:00+0000",
}
BASE_FORMAT = 1
"""Part of a stored base's name; raise it when what is stored changes."""


class Submodule(NamedTuple):
    """A gitlink of a tree: a commit of another repository."""

    path: str
    """Where it lies in the tree."""
    url: str | None
    """Its repository by .gitmodules; None if that does not name it."""
    commit: str
    """The commit that the tree records."""


class ResolvedTask(NamedTuple):
    """What a repository says of a task."""

    base_commit: str
    human_commit: str
    base_tree: str
    human_tree: str
    human_diff: bytes
    submodules: tuple[Submodule, ...] = ()
    """Gitlinks of the base, whether they were filled or not."""
    filled: bool = False
    """Whether the trees hold files in place of gitlinks, so that they are not the commits' own."""


class _Commit(NamedTuple):
    name: str
    tree: str
    parents: tuple[str, ...]


class _BaseParts(NamedTuple):
    """What is kept of a base: files that git made, each with its own hash at its end."""

    pack: bytes
    pack_index: bytes
    git_index: bytes


class Repository:
    """The mirror of one repository."""

    def __init__(self, url: str, place: str, mirror: Path) -> None:
        self._url, self._place, self._mirror = url, place, mirror

    def resolve(self, task: Task) -> ResolvedTask:
        """Commits and trees of base and human, and the human's diff.

        Raises:
            FailureRaised: repository_unavailable, commit_unknown or base_not_parent.
        """
        with self._locked():
            human = self._commit(task.human_commit)
            if task.base_commit == PARENT and len(human.parents) != 1:
                raise _not_parent(task, human, "it has no single parent")
            name = human.parents[0] if task.base_commit == PARENT else task.base_commit
            shallow = f", a parent of {human.name} (a shallow clone?)"
            base = self._commit(name, shallow if name in human.parents else "")
            self._refuse_missing_objects(base.tree, human.tree)
        if base.name not in human.parents:
            raise _not_parent(task, human, f"base_commit {base.name} is not one of them")
        return ResolvedTask(
            base.name,
            human.name,
            base.tree,
            human.tree,
            self.diff(base.tree, human.tree),
            self._submodules(base.tree),
        )

    @property
    def places(self) -> list[str]:
        """Paths on this machine that lead to the history."""
        place = [self._place] if "://" not in self._place else []
        return [*place, str(self._mirror)]

    def objects_of(self, name: str) -> list[str]:
        """Ids of a commit or tree and of all that it reaches."""
        listing = git(self._mirror, "rev-list", "--objects", "--no-object-names", name)
        return listing.decode().split()

    def diff(self, old: str, new: str) -> bytes:
        """The diff between two trees."""
        return diff_trees(self._mirror, old, new)

    def bake(self, tree: str) -> Base:
        """The one-commit history of a tree; built once, then kept beside the mirror."""
        kept = self._mirror / "bases" / f"{tree}-{BASE_FORMAT}"
        entries, content = self._read_tree(tree)
        arguments = ("commit-tree", tree, "-m", "Initial state")
        commit = git_word(self._mirror, *arguments, env=_NEUTRAL_PERSON)
        parts = _read_parts(kept)
        if parts is None:
            with self._locked():
                parts = _read_parts(kept) or self._build_parts(tree, commit, entries, kept)
        return Base(tree, commit, *parts, entries=entries, content=content)

    def fill_submodules(self, tree: str, open_place: Callable[[str], Repository]) -> str:
        """The tree with the files of its submodules, theirs too, in place of gitlinks.

        Raises:
            FailureRaised: submodule_unavailable.
        """
        submodules = self._submodules(tree)
        if not submodules:
            return tree
        with tempfile.TemporaryDirectory(dir=self._mirror) as folder:
            env = {"GIT_INDEX_FILE": f"{folder}/index"}
            git(self._mirror, "read-tree", tree, env=env)
            for submodule in submodules:
                filled = self._fetch_submodule(submodule, open_place)
                path = os.fsencode(submodule.path)
                lines = [b"0 %s\t%s" % (b"0" * 40, path)]
                for line in list_files(git(self._mirror, "ls-tree", "-r", "-z", filled)):
                    facts, inner = line.split(b"\t", 1)
                    lines.append(b"%s\t%s/%s" % (facts, path, inner))
                data = b"".join(line + b"\0" for line in lines)
                git(self._mirror, "update-index", "-z", "--index-info", data=data, env=env)
            return git_word(self._mirror, "write-tree", env=env)

    def pack_files(self, commit: str, open_place: Callable[[str], Repository]) -> tuple[str, bytes]:
        """The tree of a commit, its submodules filled, and a pack of that tree alone.

        Raises:
            FailureRaised: the commit or one of its submodules cannot be had.
        """
        with self._locked():
            tree = self._commit(commit).tree
        filled = self.fill_submodules(tree, open_place)
        packing = ("pack-objects", "--quiet", "--revs", "--stdout")
        return filled, git(self._mirror, *packing, data=filled.encode())

    def _fetch_submodule(
        self, submodule: Submodule, open_place: Callable[[str], Repository]
    ) -> str:
        """Bring the files of a submodule's commit, filled, into this mirror; their tree."""
        if submodule.url is None:
            raise fail(
                FailureClass.SUBMODULE_UNAVAILABLE,
                f"{self._url}: .gitmodules names no URL for the submodule {submodule.path}",
            )
        url = submodule.url
        try:
            url = join_url(self._url, url)
            filled, pack = open_place(url).pack_files(submodule.commit, open_place)
            git(self._mirror, "index-pack", "--stdin", data=pack)
        except (FailureRaised, GitError, ValueError) as error:
            raise fail(
                FailureClass.SUBMODULE_UNAVAILABLE,
                f"{self._url}: the submodule {submodule.path} of {url}: {error}",
            ) from error
        return filled

    def _submodules(self, tree: str) -> tuple[Submodule, ...]:
        """The gitlinks of a tree, with their URLs."""
        listing = list_files(git(self._mirror, "ls-tree", "-r", "-z", tree))
        links = [line.split(b"\t", 1) for line in listing if line.startswith(b"160000 ")]
        if not links:
            return ()
        urls: dict[str, str] = {}
        with contextlib.suppress(GitError):  # no .gitmodules, or a broken one: no URLs
            blob = ("config", "--blob", f"{tree}:.gitmodules", "-z", "--get-regexp")
            output = git(self._mirror, *blob, r"^submodule\..*\.(path|url)$")
            pairs = [os.fsdecode(pair).partition("\n") for pair in list_files(output)]
            said = {key: value for key, _, value in pairs}
            for key, path in said.items():
                name, _, field = key.rpartition(".")
                if field == "path" and f"{name}.url" in said:
                    urls[path] = said[f"{name}.url"]
        return tuple(
            Submodule(os.fsdecode(path), urls.get(os.fsdecode(path)), facts.split()[2].decode())
            for facts, path in links
        )

    def _read_tree(self, tree: str) -> tuple[tuple[Entry, ...], bytes]:
        """All paths of a tree in the index's order, and their bytes."""
        paths = []
        for line in list_files(git(self._mirror, "ls-tree", "-r", "-z", "--full-tree", tree)):
            facts, path = line.split(b"\t", 1)
            octal, _, oid = facts.decode().split()
            paths.append((path, int(octal, 8), oid))
        oids = list(dict.fromkeys(oid for _, mode, oid in paths if mode != GITLINK))
        blobs = dict(zip(oids, read_objects(self._mirror, oids), strict=True))
        entries, at = [], 0
        for path, mode, oid in sorted(paths):
            size = len(blobs.get(oid, b""))
            entries.append(Entry(path, mode, oid, at, size))
            at += size
        return tuple(entries), b"".join(blobs.get(entry.oid, b"") for entry in entries)

    def _build_parts(
        self, tree: str, commit: str, entries: tuple[Entry, ...], kept: Path
    ) -> _BaseParts:
        """Make the parts of a base; their folder appears whole or not at all."""
        kept.parent.mkdir(exist_ok=True)
        for old in (kept, *kept.parent.glob("unfinished-*")):  # damaged, or of a killed process
            shutil.rmtree(old, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=kept.parent, prefix="unfinished-"))
        try:
            packing = ("pack-objects", "--quiet", "--revs", str(folder / "pack"))
            name = git_word(self._mirror, *packing, data=commit.encode())
            (folder / f"pack-{name}.pack").rename(folder / "pack")
            (folder / f"pack-{name}.idx").rename(folder / "pack_index")
            env = {"GIT_INDEX_FILE": str(folder / "git_index")}
            git(self._mirror, "read-tree", tree, env=env)
            sizes = {entry.oid: entry.size for entry in entries}
            index = make_index((folder / "git_index").read_bytes(), sizes)
            (folder / "git_index").write_bytes(index)
            folder.rename(kept)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return _BaseParts(*((kept / part).read_bytes() for part in _BaseParts._fields))

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

    def _commit(self, name: str, note: str = "") -> _Commit:
        """A commit by its hash or the beginning of it, fetched if the mirror lacks it.

        Args:
            name: the hash.
            note: what a message says of a commit that cannot be had.

        Raises:
            FailureRaised: repository_unavailable, commit_unknown or commit_ambiguous.
        """
        tried = ["the mirror"]
        for arguments in (None, _ALL_REFS, (name,)):
            if arguments is not None:
                if self._is_borrowed() or (arguments == (name,) and len(name) < 40):
                    continue
                tried.append(f"fetch {' '.join(arguments)} from {self._place}")
                options = ("--quiet", "--no-tags", "--prune", "--")
                try:
                    git(self._mirror, "fetch", *options, self._place, *arguments)
                except GitError as error:
                    if arguments is _ALL_REFS:
                        raise fail(
                            FailureClass.REPOSITORY_UNAVAILABLE,
                            f"cannot fetch {self._url} from {self._place}: {error}",
                        ) from error
                    tried[-1] += f" ({error})"
            found = self._commits(name)
            if len(found) == 1:
                return self._read_commit(found[0])
            if found:
                raise fail(
                    FailureClass.COMMIT_AMBIGUOUS,
                    f"{self._url} at {self._place} has {len(found)} commits that begin with "
                    f"{name}: {', '.join(found)}",
                )
        raise fail(
            FailureClass.COMMIT_UNKNOWN,
            f"{self._url} at {self._place} has no commit {name}{note}; tried: {'; '.join(tried)}",
        )

    def _commits(self, name: str) -> list[str]:
        """Full hashes of the commits that a hash, or the beginning of one, names in the mirror."""
        names = git(self._mirror, "rev-parse", f"--disambiguate={name}")
        asked = ("cat-file", "--batch-check=%(objectname) %(objecttype)")
        kinds = git(self._mirror, *asked, data=names)
        pairs = [line.split() for line in kinds.decode().splitlines()]
        return sorted({oid for oid, kind in pairs if kind == "commit"})

    def _read_commit(self, name: str) -> _Commit:
        with gitpython.Repo(self._mirror) as repo:  # ends git's processes that it starts
            repo.git.update_environment(
                **NEUTRAL_ENVIRONMENT,
                GIT_DIR=str(self._mirror),
                GIT_OBJECT_DIRECTORY=str(self._mirror / "objects"),
                GIT_ALTERNATE_OBJECT_DIRECTORIES="",
            )
            commit = repo.commit(name)
            parents = tuple(parent.hexsha for parent in commit.parents)
            return _Commit(commit.hexsha, commit.tree.hexsha, parents)

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
        if not (self._mirror / "info" / "attributes").exists():  # what init_bare writes last
            init_bare(self._mirror)
        place = Path(self._place)
        if is_series(place):
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
            line = f"{place.joinpath(objects).resolve()}\n"
            if not alternates.exists() or alternates.read_text() != line:
                alternates.parent.mkdir(exist_ok=True)
                alternates.write_text(line)


def _read_parts(kept: Path) -> _BaseParts | None:
    """The kept parts of a base; None where one is missing or damaged."""
    try:
        parts = _BaseParts(*((kept / part).read_bytes() for part in _BaseParts._fields))
    except FileNotFoundError:
        return None
    whole = all(hashlib.sha1(p[:-20], usedforsecurity=False).digest() == p[-20:] for p in parts)
    return parts if whole and parts.pack_index[-40:-20] == parts.pack[-20:] else None


_ALL_REFS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")


def open_repository(url: str, place: str | None, cache: Path) -> Repository:
    """The mirror of a repository whose history can be had at `place` (default: at its URL)."""
    source = place or url
    mirror = cache / f"{repository_name(url)}-{sha256_hex(f'{url} {source}'.encode())[:12]}"
    return Repository(url, source, mirror)


def cache_folder() -> Path:
    """Where mirrors lie: isobench-ray/repositories under the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "isobench-ray" / "repositories"


def _not_parent(task: Task, human: _Commit, problem: str) -> FailureRaised:
    parents = ", ".join(human.parents) or "none"
    return fail(
        FailureClass.BASE_NOT_PARENT,
        f"{task.task_id}: human_commit {human.name} has the parents {parents}; {problem}",
    )
