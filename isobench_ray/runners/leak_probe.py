"""Looks for the answer as an agent could: leak_probe.py QUESTIONS FINDINGS, from the workspace.

Runs in the sandbox in an agent's place. QUESTIONS is a JSON object of what must not be found;
FINDINGS becomes a JSON list of {"way", "found": [...]}, one entry per way that was tried. A git
that does not answer is a finding too: what it would have shown is not known.
"""

import hashlib
import json
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GIT_LIMIT_S = 120
NETWORK_LIMIT_S = 5
SMALLEST_FILE = 64
"""Bytes; a smaller file says too little to be recognised by its content."""
LARGEST_TEXT = 5_000_000
"""Bytes of a file that is searched for words."""
WORKSPACE = Path.cwd()
FSCK = ("fsck", "--unreachable", "--no-reflogs", "--no-progress")
OWN_REFS = {"HEAD", "refs/heads/main"}
TRACES = (
    "ORIG_HEAD", "FETCH_HEAD", "MERGE_HEAD", "CHERRY_PICK_HEAD", "shallow", "packed-refs", "logs",
    "objects/info/commit-graph", "objects/info/commit-graphs", "objects/pack/multi-pack-index",
    "refs/stash", "refs/notes", "refs/replace", "refs/remotes", "rr-cache", "sequencer",
)  # fmt: skip
POINTERS = (
    "objects/info/alternates", "objects/info/http-alternates", "commondir", "gitdir", "worktrees",
    "modules", "remotes", "branches", "info/grafts", "config.worktree",
)  # fmt: skip


class Probe:
    """What must not be found, and a method for every way to find it."""

    def __init__(self, path: Path) -> None:
        asked: dict[str, Any] = json.loads(path.read_text())
        self.own_commit: str = asked["own_commit"]
        self.own_objects: set[str] = set(asked["own_objects"])
        self.hidden_objects: list[str] = asked["hidden_objects"]
        self.hidden_files: dict[str, int] = asked["hidden_files"]
        self.words: list[bytes] = [word.encode() for word in asked["words"]]
        self.hosts: list[str] = asked["hosts"]
        self.rooms: list[Path] = [Path(room) for room in asked["rooms"]]
        self.roots: list[str] = asked["roots"]
        self.own_input = path

    def findings(self) -> "list[dict[str, object]]":
        """Try every way; what each gave."""
        return [{"way": name, "found": sorted(set(way(self)))} for name, way in WAYS.items()]

    def log_of_all(self) -> Iterator[str]:
        """Commits besides the one."""
        commits = git("log", "--all", "--reflog", "--format=%H").split()
        if len(set(commits)) > 1:
            yield f"{len(set(commits))} commits in git log --all"

    def metadata(self) -> Iterator[str]:
        """Names, dates and messages of the history it comes from."""
        form = "%an <%ae> %at | %cn <%ce> %ct | %s %b"
        for commit in git("log", "--all", f"--format={form}").splitlines():
            if commit.strip() and commit.strip() != NEUTRAL:
                yield commit.strip()

    def human_objects(self) -> Iterator[str]:
        """Objects of the human's commit that git can read, through whatever pointer."""
        asked = "".join(f"{oid}\n" for oid in self.hidden_objects)
        for line in git("cat-file", "--batch-check", data=asked).splitlines():
            if not line.endswith(" missing"):
                yield line

    def other_objects(self) -> Iterator[str]:
        """Objects that belong neither to the base's tree nor to its commit, reachable or not."""
        others = all_objects() - self.own_objects
        if others:
            yield f"{len(others)} objects besides the base's, such as {min(others)}"
        lost = [line for line in git(*FSCK).splitlines() if line]
        yield from lost[:5]

    def own_view(self) -> Iterator[str]:
        """The control of all ways that ask git: it must run, and show the base and all of it."""
        if git_folder() != WORKSPACE / ".git":
            yield f"the workspace's git directory is {git_folder()}"
        head = git("rev-parse", "HEAD").strip()
        if head != self.own_commit:
            yield f"HEAD is {head or 'not readable'}, not the base's commit"
        missing = self.own_objects - all_objects()
        if missing:
            yield f"{len(missing)} of the base's objects cannot be listed, such as {min(missing)}"
        yield from FAILED

    def references(self) -> Iterator[str]:
        """Branches, tags, remotes, stashes, notes."""
        for ref in git("for-each-ref", "--format=%(refname)").split():
            if ref not in OWN_REFS:
                yield ref
        yield from git("stash", "list").splitlines()
        yield from git("remote", "--verbose").splitlines()

    def traces(self) -> Iterator[str]:
        """Files that git leaves when it fetches, merges, resets or packs."""
        folder = git_folder()
        for name in TRACES if folder else ():
            if folder and (folder / name).exists():
                yield name

    def pointers(self) -> Iterator[str]:
        """Files and settings that lead to another store of objects."""
        if (WORKSPACE / ".git").is_file():
            yield f".git is a file: {(WORKSPACE / '.git').read_text().strip()}"
        folder = git_folder()
        for name in POINTERS if folder else ():
            place = folder / name if folder else WORKSPACE
            if place.is_file():
                yield f"{name}: {place.read_text().strip()}"
            elif place.is_dir() and any(place.iterdir()):
                yield f"{name}/ is not empty"
        for line in git("config", "--local", "--list").splitlines():
            if re.match(r"(remote|branch|include|includeif|url|submodule|extensions)\.", line):
                yield f"config {line}"

    def outer_repositories(self) -> Iterator[str]:
        """A repository that git finds around the workspace once its .git is gone."""
        argv = ("rev-parse", "--absolute-git-dir")
        said = git(*argv, folder=WORKSPACE.parent, may_fail=True).strip()
        if said:
            yield said

    def hard_links(self) -> Iterator[str]:
        """Files whose bytes are another file's too: writing to one would change the other."""
        for path, status in files_below(WORKSPACE):
            if status.st_nlink > 1:
                yield str(path)

    def words_in_files(self) -> Iterator[str]:
        """Hashes and places of the origin, in any file that the agent was given."""
        for room in self.rooms:
            for path, status in files_below(room):
                if path == self.own_input or status.st_size > LARGEST_TEXT:
                    continue
                try:
                    content = path.read_bytes()
                except OSError:
                    continue
                for word in self.words:
                    if word in content:
                        yield f"{path}: {word.decode()}"

    def words_in_environment(self) -> Iterator[str]:
        """The same in variables and command lines of all visible processes."""
        for process in Path("/proc").glob("[0-9]*"):
            for name in ("environ", "cmdline"):
                try:
                    content = (process / name).read_bytes()
                except OSError:
                    continue
                for word in self.words:
                    if word in content:
                        yield f"/proc/{process.name}/{name}: {word.decode()}"

    def human_files(self) -> Iterator[str]:
        """Files with the human's content, anywhere that can be read."""
        sizes = {size for size in self.hidden_files.values() if size >= SMALLEST_FILE}
        for root in self.roots if sizes else ():
            for path, status in files_below(Path(root)):
                if status.st_size in sizes and blob_id(path) in self.hidden_files:
                    yield str(path)

    def other_repositories(self) -> Iterator[str]:
        """Git directories, packs and bundles elsewhere that hold the human's objects."""
        asked = "".join(f"{oid}\n" for oid in self.hidden_objects)
        own = git_folder()
        walks = (os.walk(root) for root in self.roots)
        for place, folders, names in (step for walk in walks for step in walk):
            folders[:] = [name for name in folders if f"{place}/{name}".lstrip("/") not in UNSEEN]
            if "HEAD" in names and "objects" in folders and Path(place) != own:
                argv = ("--git-dir", place, "cat-file", "--batch-check")
                found = git(*argv, data=asked, may_fail=True)
                if any(not line.endswith(" missing") for line in found.splitlines()):
                    yield place
            for path in (Path(place, name) for name in names):
                if path.suffix == ".bundle" and self.names_hidden(path):
                    yield str(path)
                elif path.suffix != ".idx" or inside(path, own):
                    continue
                elif packed(path) & set(self.hidden_objects):
                    yield str(path)

    def names_hidden(self, path: Path) -> bool:
        """Whether the beginning of a file, as of a bundle, names the human's commit."""
        try:
            with path.open("rb") as file:
                head = file.read(65_536)
        except OSError:
            return False
        return any(oid.encode() in head for oid in self.hidden_objects)

    def layers(self) -> Iterator[str]:
        """Folders behind an overlay, if they can be reached."""
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            for folder in re.findall(r"(?:lowerdir|upperdir|workdir)=([^,\s]+)", line):
                for part in folder.split(":"):
                    if Path(part).exists():
                        yield part

    def processes(self) -> Iterator[str]:
        """Processes that are not the agent's own."""
        own = {os.getpid(), os.getppid(), 1}
        for process in Path("/proc").glob("[0-9]*"):
            if int(process.name) not in own:
                try:
                    words = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                except OSError:
                    continue
                yield f"{process.name}: {words.decode(errors='replace').strip()[:200]}"

    def network(self) -> Iterator[str]:
        """Interfaces besides the loopback, and the repository's host."""
        for _, name in socket.if_nameindex():
            if name != "lo":
                yield f"interface {name}"
        socket.setdefaulttimeout(NETWORK_LIMIT_S)
        for host in self.hosts:
            try:
                socket.create_connection((host, 443), timeout=NETWORK_LIMIT_S).close()
            except OSError:
                continue
            yield f"{host} answers"


def main() -> None:
    """Try every way and write down what it gave."""
    findings = Probe(Path(sys.argv[1])).findings()
    Path(sys.argv[2]).write_text(json.dumps(findings, indent=1) + "\n")


def git(*arguments: str, data: str = "", folder: Path = WORKSPACE, may_fail: bool = False) -> str:
    """What git prints when called as the agent would call it, with nothing that holds it back."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", *arguments], cwd=folder, input=data.encode(),
        capture_output=True, env=environment, timeout=GIT_LIMIT_S, check=False,
    )  # fmt: skip
    if done.returncode != 0 and not may_fail:
        words = done.stderr.decode(errors="replace").strip()
        FAILED.append(f"git {' '.join(arguments[:2])} ended with {done.returncode}: {words[:200]}")
    return done.stdout.decode(errors="replace")


def all_objects() -> "set[str]":
    """Ids of all objects in the workspace's store, reachable or not."""
    argv = ("cat-file", "--batch-all-objects", "--batch-check=%(objectname)", "--unordered")
    return set(git(*argv).split())


def git_folder() -> "Path | None":
    """The git directory that git itself finds from the workspace."""
    said = git("rev-parse", "--absolute-git-dir").strip()
    return Path(said) if said else None


NEUTRAL = " | ".join(
    ["isobench-ray <workspace@isobench-ray.invalid> 946684800"] * 2 + ["Initial state"]
)


def files_below(folder: Path) -> "Iterator[tuple[Path, os.stat_result]]":
    """Regular files below a folder, no link followed, the kernel's own trees left out."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if f"{place}/{name}".lstrip("/") not in UNSEEN]
        for name in names:
            path = Path(place) / name
            try:
                status = path.lstat()
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                yield path, status


def blob_id(path: Path) -> "str | None":
    """Git's object id of a file's bytes; None if it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    header = b"blob %d\0" % len(content)
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


def packed(index: Path) -> "set[str]":
    """Ids of the objects in a pack, by its index; none if it is not git's."""
    try:
        with index.open("rb") as file:
            done = subprocess.run(
                ["git", "show-index"], stdin=file, capture_output=True, check=False
            )
    except OSError:
        return set()
    return {line.split()[1] for line in done.stdout.decode(errors="replace").splitlines()}


def inside(path: Path, folder: "Path | None") -> bool:
    """Whether a path is a folder or lies in it."""
    return folder is not None and (path == folder or folder in path.parents)


UNSEEN = {"proc", "sys", "dev"}
FAILED: "list[str]" = []
"""Calls of git that failed though nothing lets them, in its words."""
WAYS = {
    "git log": Probe.log_of_all,
    "commit metadata": Probe.metadata,
    "human objects": Probe.human_objects,
    "other objects": Probe.other_objects,
    "references": Probe.references,
    "traces of git": Probe.traces,
    "pointers to stores": Probe.pointers,
    "outer repositories": Probe.outer_repositories,
    "hard links": Probe.hard_links,
    "words in files": Probe.words_in_files,
    "words in processes": Probe.words_in_environment,
    "human files": Probe.human_files,
    "other repositories": Probe.other_repositories,
    "overlay layers": Probe.layers,
    "processes": Probe.processes,
    "network": Probe.network,
    "git's own view": Probe.own_view,
}

if __name__ == "__main__":
    main()
