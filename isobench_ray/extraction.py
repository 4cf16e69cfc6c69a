"""Taking the patch: the difference between a workspace's files and its base, whatever is in it.

Covers the scan of a folder that an agent left, and the rules of what belongs to a patch. Nothing of
the agent's git takes part: every file is read once and compared byte by byte with the base; what
differs becomes a blob in the harness's own git directory. The diff is verified: applied to the base
it must give the same tree.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from isobench_ray.base import GITLINK, Base, Entry
from isobench_ray.experiment import PatchPolicy
from isobench_ray.failure import FailureClass, fail
from isobench_ray.left_out import megabytes, summarise
from isobench_ray.patches import Extraction, describe_patch
from isobench_ray.path_rules import matching
from isobench_ray.plumbing import diff_trees, git, git_word, list_files, objects_of_files

SCRATCH = (
    "__pycache__/",
    "*.py[cod]",
    ".pytest_cache/",
    ".mypy_cache/",
    ".ruff_cache/",
    ".hypothesis/",
    ".ipynb_checkpoints/",
    ".DS_Store",
)
"""What tools leave beside sources, as ignore rules below those of the base."""
_NOT_AS_SCANNED = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,  # a link now, and none is followed
    errno.EINVAL,  # no link any more
    errno.ENXIO,  # a socket now
}
"""What reading says of a path that became another kind since it was scanned, or none."""
_HEADER_BYTES, _HEADER_NAMES = 200, 4
"""What git writes of a changed file besides its content: bytes, and how often its name."""
_SCAN_LIMIT = 1_000_000
"""New files that are looked at; a workspace with more is not read to its end."""
_PATH_LIMIT = os.pathconf("/", "PC_PATH_MAX") - 1


def extract(base: Base, folder: Path, harness: Path, policy: PatchPolicy) -> Extraction:
    """The difference between the files below `folder` and the base, as a verified patch.

    Args:
        base: what the folder held at first.
        folder: the workspace, after all of the agent's processes have ended.
        harness: the harness's git directory of the base.
        policy: what belongs to a patch.

    Everything in the folder may be an agent's trap, but nothing may still write to it: the scan
    goes by paths, and a folder swapped for a link while it runs would be followed.

    Raises:
        FailureRaised: tree_mismatch, when the diff does not give the tree that it came from.
    """
    with tempfile.TemporaryDirectory(dir=harness) as scratch:
        taking = _Taking(base, folder, harness, Path(scratch), policy)
        tree = taking.tree()
        text = diff_trees(harness, base.tree, tree)
        extraction = describe_patch(harness, base.tree, text)
        excluded = taking.excluded()
    if extraction.patch.tree != tree:
        raise fail(
            FailureClass.TREE_MISMATCH,
            f"the patch gives tree {extraction.patch.tree}, the workspace holds {tree}",
            extraction.patch.apply_error,
        )
    return extraction._replace(excluded=excluded)


class _Found(NamedTuple):
    """A file or link in the workspace that is not as in the base."""

    path: bytes
    mode: int
    size: int


class _Taking:
    """One extraction under way."""

    def __init__(
        self, base: Base, folder: Path, harness: Path, scratch: Path, policy: PatchPolicy
    ) -> None:
        self._base, self._harness, self._scratch, self._policy = base, harness, scratch, policy
        self._root = os.fsencode(folder)
        self._known: Mapping[bytes, Entry] = {entry.path: entry for entry in base.entries}
        self._seen: set[bytes] = set()
        self._left_out: list[tuple[bytes, str]] = []

    def tree(self) -> str:
        """Write the tree of what belongs to the workspace's state."""
        changed = list(self._changed())
        new = [found for found in changed if found.path not in self._known]
        hidden = self._hidden([found.path for found in new])
        taken = []
        for found in changed:
            if found.path in hidden:
                self._leave_out(found.path, hidden[found.path])
            else:
                taken.append(found)
        blobs = self._blobs(self._within_size(taken))
        gone = [path for path in self._known if path not in self._seen]
        env = {"GIT_INDEX_FILE": str(self._scratch / "index")}
        (self._scratch / "index").write_bytes(self._base.git_index)
        removals = [b"0 %s\t%s" % (b"0" * 40, path) for path in gone]
        additions = [b"%o %s\t%s" % (f.mode, oid.encode(), f.path) for f, oid in blobs]
        self._update_index(removals + additions, env)
        self._leave_out_refused(blobs, env)
        return git_word(self._harness, "write-tree", env=env)

    def excluded(self) -> tuple[str, ...]:
        """What was left out, with reasons; a folder of which nothing was taken is one line."""
        return tuple(sorted(summarise(self._left_out, self._seen | set(self._known))))

    def _leave_out(self, path: bytes, reason: str) -> None:
        """Keep a path as it is in the base, and say so."""
        self._left_out.append((path, reason))
        self._seen.discard(path)
        if path in self._known:
            self._seen.add(path)

    def _changed(self) -> Iterator[_Found]:
        """Walk the workspace; every file and link that is not as in the base."""
        n_new = 0
        for path, status in self._walk():
            mode = _git_mode(status)
            known = self._known.get(path)
            n_new += known is None
            if known is None and n_new > _SCAN_LIMIT:
                continue
            if mode is None:
                self._left_out.append((path, "not a regular file"))
                continue
            self._seen.add(path)
            if known is None or known.mode != mode or not self._equal(known, status):
                yield _Found(path, mode, status.st_size)
        if n_new > _SCAN_LIMIT:
            words = f"{n_new - _SCAN_LIMIT} new files beyond the first {_SCAN_LIMIT}"
            self._left_out.append((b".", words))

    def _walk(self) -> Iterator[tuple[bytes, os.stat_result]]:
        """All paths but folders and git directories; submodules are not entered."""
        if not os.path.isdir(self._root) or os.path.islink(self._root):
            self._left_out.append((b".", "the workspace was removed or replaced"))
        waiting = [b""]
        while waiting:
            for path, status in self._inside(waiting.pop()):
                if path.rpartition(b"/")[2].lower() == b".git":
                    if path != b".git":
                        self._left_out.append((path, "git's own; the files beside it are taken"))
                elif not stat.S_ISDIR(status.st_mode):
                    yield path, status
                elif path in self._known and self._known[path].mode == GITLINK:
                    self._seen.add(path)
                    if self._names(path + b"/"):
                        self._left_out.append((path + b"/", "inside a submodule"))
                else:
                    waiting.append(path + b"/")

    def _inside(self, folder: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
        """What lies in a folder, but for what no path reaches."""
        for name in self._names(folder):
            path = folder + name
            if len(self._root) + 1 + len(path) > _PATH_LIMIT:
                self._left_out.append((path, f"longer than {_PATH_LIMIT} bytes"))
                continue
            try:
                status = os.lstat(self._place(path))
            except (FileNotFoundError, NotADirectoryError):
                continue  # gone since the folder was listed
            yield path, status

    def _names(self, folder: bytes) -> list[bytes]:
        """Names in a folder, readable or not; none where there is no folder any more."""
        place = self._place(folder).rstrip(b"/")
        try:
            mode = os.lstat(place).st_mode
            if not stat.S_ISDIR(mode):
                return []
            if mode & 0o500 != 0o500:
                os.chmod(place, 0o700)
            return sorted(os.listdir(place))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _place(self, path: bytes) -> bytes:
        return self._root + b"/" + path

    def _equal(self, known: Entry, status: os.stat_result) -> bool:
        """Whether a file or link has the bytes that it has in the base."""
        if status.st_size != known.size:
            return False
        try:
            content = self._read(known.path, known.mode, known.size + 1)
        except OSError as error:
            if error.errno in _NOT_AS_SCANNED:
                return False
            raise
        return content == bytes(self._base.bytes_of(known))  # a memoryview compares 20 x slower

    def _read(self, path: bytes, mode: int, limit: int) -> bytes:
        """The bytes of a file (no link is followed), or a link's target.

        Raises:
            OSError: with an error number of `_NOT_AS_SCANNED` where it is no longer what it was.
        """
        place = self._place(path)
        if stat.S_ISLNK(mode):
            return os.readlink(place)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(place, flags)
        except PermissionError:
            os.chmod(place, 0o600)
            descriptor = os.open(place, flags)
        try:
            content = os.read(descriptor, limit)
            while len(content) < limit and (more := os.read(descriptor, limit - len(content))):
                content += more
        finally:
            os.close(descriptor)
        return content

    def _within_size(self, found: list[_Found]) -> list[_Found]:
        """Leave out files above the limits: single ones, and the largest of too many.

        A file counts with what its name adds to a patch, so that empty ones are not free.
        """
        policy = self._policy
        single, total = int(policy.max_file_mb * 1e6), int(policy.max_total_mb * 1e6)
        kept: list[_Found] = []
        sum_of_sizes = 0
        for item in sorted(found, key=lambda item: (item.size, item.path)):
            if item.size > single:
                reason = f"{megabytes(item.size)} MB, more than {policy.max_file_mb:g} MB"
                self._leave_out(item.path, reason)
                continue
            size = item.size + _HEADER_BYTES + _HEADER_NAMES * len(item.path)
            if sum_of_sizes + size > total:
                self._leave_out(item.path, f"the patch exceeds {policy.max_total_mb:g} MB")
            elif len(kept) >= policy.max_files:
                self._leave_out(item.path, f"the patch exceeds {policy.max_files} files")
            else:
                sum_of_sizes += size
                kept.append(item)
        return kept

    def _blobs(self, found: list[_Found]) -> list[tuple[_Found, str]]:
        """Store what was found, each read once, so that a later change plays no part."""
        kept, copies = [], []
        for number, item in enumerate(found):
            copy = self._scratch / str(number)
            try:
                content = self._read(item.path, item.mode, item.size)
            except OSError as error:
                if error.errno not in _NOT_AS_SCANNED:
                    raise
                self._seen.discard(item.path)
                continue
            copy.write_bytes(content)
            kept.append(item)
            copies.append(copy)
        return list(zip(kept, objects_of_files(self._harness, copies), strict=True))

    def _hidden(self, new: list[bytes]) -> dict[bytes, str]:
        """New files that ignore rules hide: the base's, nested ones too, and those of scratch."""
        if not new:
            return {}
        rules = self._scratch / "rules"
        rules.mkdir()
        no_folders = tuple(path + b"/" for path in new)  # a rule `build/` is not about a file
        for entry in self._base.entries:
            name = entry.path.rpartition(b"/")[2]
            if name != b".gitignore" or not stat.S_ISREG(entry.mode):
                continue
            if not entry.path.startswith(no_folders):
                place = rules / os.fsdecode(entry.path)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(self._base.bytes_of(entry))
        scratch = self._scratch / "scratch-rules"
        scratch.write_text("".join(f"{rule}\n" for rule in (*SCRATCH, *self._policy.exclude)))
        hidden = {}
        for source, line, pattern, path in _ignored(self._harness, rules, scratch, new):
            if not pattern.startswith("!"):
                by = "the patch policy" if source == str(scratch) else f"{source}:{line}"
                hidden[path] = f"ignored by {by} ({pattern})"
        wanted = matching(self._policy.include, [os.fsdecode(path) for path in hidden])
        return {path: why for path, why in hidden.items() if os.fsdecode(path) not in wanted}

    def _update_index(self, lines: list[bytes], env: dict[str, str]) -> None:
        data = b"".join(line + b"\0" for line in lines)
        git(self._harness, "update-index", "--replace", "-z", "--index-info", data=data, env=env)

    def _leave_out_refused(self, blobs: list[tuple[_Found, str]], env: dict[str, str]) -> None:
        """Some names git passes over (`git~1`, `.GIT`), and says so only on its error output."""
        listed = set(list_files(git(self._harness, "ls-files", "--stage", "-z", env=env)))
        for found, oid in blobs:
            if b"%o %s 0\t%s" % (found.mode, oid.encode(), found.path) not in listed:
                self._leave_out(found.path, "a path that git refuses")


def _ignored(
    harness: Path, rules: Path, scratch: Path, paths: list[bytes]
) -> Iterator[tuple[str, str, str, bytes]]:
    """(source, line, pattern, path) of all paths that a rule matches, negated rules too."""
    env = {"GIT_WORK_TREE": str(rules)}
    options = ("-c", f"core.excludesFile={scratch}")
    check = ("check-ignore", "--no-index", "--verbose", "-z", "--stdin")
    data = b"".join(b"./" + path + b"\0" for path in paths)  # a name may begin with pathspec magic
    output = git(harness, *options, *check, data=data, env=env, cwd=rules, accept=(0, 1))
    fields = list_files(output)
    for at in range(0, len(fields), 4):
        source, line, pattern = (field.decode(errors="replace") for field in fields[at : at + 3])
        yield source, line, pattern, fields[at + 3].removeprefix(b"./")


def _git_mode(status: os.stat_result) -> int | None:
    """Git's mode of a file or link; None for what git cannot hold."""
    if stat.S_ISLNK(status.st_mode):
        return 0o120000
    if stat.S_ISREG(status.st_mode):
        return 0o100755 if status.st_mode & stat.S_IXUSR else 0o100644
    return None
