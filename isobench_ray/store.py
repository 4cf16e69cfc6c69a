"""The store under Results: keys and bytes, with one operation that can be relied on, create-once.

`LocalStore.create_once` writes in four steps: a temporary file in the same file system, fsync,
`link()` to the final name (which fails if the name exists), fsync of the folder. After a crash
a key is absent or whole. `put` replaces in the same way with rename. Accepted: stray files under
`.tmp/` after a kill, which `sweep` removes. S3 stands behind the same protocol in a later release.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from isobench_ray.errors import UserError


class Store(Protocol):
    """What Results need of a place."""

    uri: str

    def create_once(self, key: str, data: bytes) -> bool:
        """Create a key durably; False, and nothing changed, if it exists."""

    def put(self, key: str, data: bytes) -> None:
        """Create or replace a key durably."""

    def append(self, key: str, data: bytes) -> None:
        """Add whole lines to a log that has one writer."""

    def get(self, key: str) -> bytes | None:
        """Content of a key; None if there is none."""

    def list(self, prefix: str) -> list[str]:
        """All keys under a prefix that ends in `/`, sorted."""

    def delete(self, key: str) -> None:
        """Remove a key; no error if there is none."""


class LocalStore:
    """A folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)

    def create_once(self, key: str, data: bytes) -> bool:
        """Create a key durably; False, and nothing changed, if it exists."""
        target = self.root / key
        temporary = self._write_temporary(data)
        try:
            _make_folder(target.parent)
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            _sync_folder(target.parent)
            return True
        finally:
            temporary.unlink(missing_ok=True)

    def put(self, key: str, data: bytes) -> None:
        """Create or replace a key durably."""
        target = self.root / key
        temporary = self._write_temporary(data)
        _make_folder(target.parent)
        temporary.replace(target)
        _sync_folder(target.parent)

    def append(self, key: str, data: bytes) -> None:
        """Add whole lines to a log that has one writer; one write call, then fsync.

        A line that a kill tore is ended first, so that it does not swallow the next one.
        """
        target = self.root / key
        _make_folder(target.parent)
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, b"\n" + data if torn else data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def get(self, key: str) -> bytes | None:
        """Content of a key; None if there is none."""
        try:
            return (self.root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self) -> list[str]:
        """What lies directly in the root, sorted; nothing if there is no root."""
        try:
            found = [path.name for path in self.root.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in found if not name.startswith("."))

    def list(self, prefix: str) -> list[str]:
        """All keys under a prefix that ends in `/`, sorted."""
        return sorted(self._walk(self.root / prefix))

    def delete(self, key: str) -> None:
        """Remove a key; no error if there is none."""
        (self.root / key).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove temporary files of writers that were killed. Only for a driver that owns it."""
        for stray in (self.root / ".tmp").glob("*"):
            stray.unlink(missing_ok=True)

    def link(self, key: str, target_key: str) -> None:
        """Make `key` a relative symbolic link to `target_key`, replacing what is there."""
        place, target = self.root / key, self.root / target_key
        temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
        temporary.symlink_to(os.path.relpath(target, place.parent))
        temporary.replace(place)

    def _write_temporary(self, data: bytes) -> Path:
        folder = self.root / ".tmp"
        _make_folder(folder)
        path = folder / uuid.uuid4().hex
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        return path

    def _walk(self, folder: Path) -> Iterator[str]:
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path))
            else:
                yield os.path.relpath(entry.path, self.root)


def open_store(uri: str) -> LocalStore:
    """The store of a results path.

    Raises:
        UserError: the URI's scheme is not in this release.
    """
    if "://" in uri:
        scheme = uri.split("://", 1)[0]
        raise UserError(f"{uri}: results on {scheme}:// are not in this release; use a local path")
    return LocalStore(Path(uri).absolute())


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents, each durable in its own parent."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):
            path.mkdir()
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_unwritable(uri: str) -> None:
    """Find out, leaving nothing behind, whether a results path can be written.

    Raises:
        UserError: it cannot, with the folder that refuses.
    """
    folder = Path(uri).absolute()
    try:
        while not folder.exists():
            folder = folder.parent
        if folder.is_dir():
            _try_to_write(folder)
    except OSError as error:
        raise UserError(f"{uri}: cannot write results: {folder}: {error.strerror}") from error
    if not folder.is_dir():
        raise UserError(f"{uri}: cannot hold results: {folder} is not a folder")


def _try_to_write(folder: Path) -> None:
    """Make a file without a name.

    Raises:
        OSError: the folder cannot be written.
    """
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        with tempfile.TemporaryFile(dir=folder):  # no O_TMPFILE, as on NFS
            pass
