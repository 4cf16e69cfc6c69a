"""The baked base: a commit's exact tree as a history of one commit, ready to be written.

Covers the artefact that a worker gets of a task, and how it becomes files and git directories. Its
objects are the tree's and those of one neutral, parentless commit: no other version of any file,
no name, date or message of the history it comes from.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from pathlib import Path
from typing import NamedTuple

from isobench_ray.plumbing import NEUTRAL_ATTRIBUTES

FILE_TIME_S = 946_684_800
"""Modification time of every written file, 2000-01-01 UTC: part of the baked index."""
GITLINK = 0o160000
"""Mode of a submodule in a tree."""

_NEUTRAL_CONFIG = """\
[core]
	repositoryformatversion = 0
	filemode = true
	bare = {bare}
	fsync = none
	checkStat = minimal
	trustctime = false
[user]
	name = agent
	email = agent@isobench-ray.invalid
"""


class Entry(NamedTuple):
    """One path of a tree."""

    path: bytes
    """Relative to the root, with slashes."""
    mode: int
    """Git's mode: 0o100644, 0o100755, 0o120000 (link) or 0o160000 (submodule)."""
    oid: str
    """Git's object id."""
    start: int
    """Where its bytes begin in the base's content; a link's bytes are its target."""
    size: int
    """Number of its bytes."""


class Base(NamedTuple):
    """A tree as a one-commit history that holds nothing else: what a worker gets of a task."""

    tree: str
    """Git tree id."""
    commit: str
    """The neutral, parentless commit over that tree."""
    pack: bytes
    """A git pack of exactly that commit and its tree's objects."""
    pack_index: bytes
    """The index of that pack."""
    git_index: bytes
    """A git index of the tree that fits the files as `write_files` writes them."""
    entries: tuple[Entry, ...]
    """All paths, in the index's order."""
    content: bytes
    """The bytes of all files and links, one after the other."""

    def bytes_of(self, entry: Entry) -> memoryview:
        """The content of a path."""
        return memoryview(self.content)[entry.start : entry.start + entry.size]

    def write_files(self, folder: Path) -> None:
        """Write all files into an empty folder, with equal times.

        Raises:
            OSError: the folder is not empty, names collide on this file system, or it is full.
        """
        root = os.fsencode(folder) + b"/"
        for name in _folders(self.entries):
            os.mkdir(root + name)
        times = (FILE_TIME_S * 10**9, FILE_TIME_S * 10**9)
        for entry in self.entries:
            path = root + entry.path
            if stat.S_ISREG(entry.mode):
                _write_file(path, entry.mode & 0o777, self.bytes_of(entry), times)
            elif stat.S_ISLNK(entry.mode):
                os.symlink(bytes(self.bytes_of(entry)), path)
                os.utime(path, ns=times, follow_symlinks=False)
            else:
                os.mkdir(path)

    def write_git(self, git_dir: Path, *, bare: bool) -> None:
        """Write a git directory of this base, with copies of its objects, on branch main.

        Raises:
            OSError: it exists, or the disk is full.
        """
        name = f"pack-{self.pack[-20:].hex()}"
        files = {
            "HEAD": b"ref: refs/heads/main\n",
            "config": _NEUTRAL_CONFIG.format(bare="true" if bare else "false").encode(),
            "refs/heads/main": f"{self.commit}\n".encode(),
            "refs/tags": None,
            "info/attributes": NEUTRAL_ATTRIBUTES.encode(),
            "objects/info": None,
            f"objects/pack/{name}.idx": self.pack_index,
            f"objects/pack/{name}.pack": self.pack,
            "index": self.git_index,
        }
        git_dir.mkdir(parents=True)
        for path, content in files.items():
            place = git_dir / path
            (place if content is None else place.parent).mkdir(parents=True, exist_ok=True)
            if content is not None:
                place.write_bytes(content)


def make_index(read_tree: bytes, sizes: dict[str, int]) -> bytes:
    """Fill times and sizes into the index that `git read-tree` makes; sizes by object id.

    With core.checkStat=minimal git compares no more than these two, so that its first look at a
    workspace reads no file. Format: git's Documentation/gitformat-index, version 2.

    Raises:
        ValueError: not an index of version 2.
    """
    signature, version, count = struct.unpack_from(">4sII", read_tree)
    if (signature, version) != (b"DIRC", 2):
        raise ValueError(f"an index {signature!r} of version {version}, expected DIRC 2")
    data, at = bytearray(read_tree[:-20]), 12
    for _ in range(count):
        mode = struct.unpack_from(">I", data, at + 24)[0]
        if mode != GITLINK:
            oid = data[at + 40 : at + 60].hex()
            struct.pack_into(">I", data, at + 8, FILE_TIME_S)
            struct.pack_into(">I", data, at + 36, sizes[oid] & 0xFFFFFFFF)
        end = data.index(0, at + 62)
        at += (end - at) // 8 * 8 + 8
    return bytes(data) + hashlib.sha1(data, usedforsecurity=False).digest()


def _folders(entries: tuple[Entry, ...]) -> list[bytes]:
    """All folders that files lie in, parents first."""
    found: set[bytes] = set()
    for entry in entries:
        parent = entry.path.rpartition(b"/")[0]
        while parent and parent not in found:
            found.add(parent)
            parent = parent.rpartition(b"/")[0]
    return sorted(found)


def _write_file(path: bytes, mode: int, content: memoryview, times: tuple[int, int]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode)
    try:
        written = os.write(descriptor, content)
        while written < len(content):
            written += os.write(descriptor, content[written:])
        os.utime(descriptor, ns=times)
    finally:
        os.close(descriptor)
