"""Kernel overlays: a folder that looks like a written copy of another and costs one mount.

Needs the right to mount, and a place for changes on a file system that can hold them. Where either
is missing, callers write plain copies instead.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import tempfile
from pathlib import Path


class OverlayError(Exception):
    """The kernel or mount(8) refused."""


def mount_overlay(lower: Path, changes: Path, folder: Path) -> None:
    """Show `lower` at the new folder `folder`, with changes kept in the new folder `changes`.

    Raises:
        OverlayError: in mount's words.
        OSError: the disk is full.
    """
    upper, work = changes / "upper", changes / "work"
    paths = [str(path) for path in (lower, upper, work)]
    if any(letter in path for path in paths for letter in ",:\\"):
        raise OverlayError(f"a path holds a comma, colon or backslash: {', '.join(paths)}")
    for new in (folder, upper, work):
        new.mkdir(parents=True)
    # redirect_dir: without it, renaming a folder of the lower layer is an error (EXDEV)
    options = "redirect_dir=on,lowerdir={},upperdir={},workdir={}".format(*paths)
    try:
        _run("mount", "-t", "overlay", "isobench-ray", "-o", options, str(folder))
    except OverlayError as error:
        if os.strerror(errno.ENOSPC) in str(error):
            raise _disk_full(changes) from error
        raise
    if os.statvfs(folder).f_flag & os.ST_RDONLY:  # what the kernel mounts if `work` has no room
        raise _disk_full(changes)


def unmount_below(folder: Path) -> None:
    """Take away every mount at or below a folder, the innermost first, used or not.

    Raises:
        OverlayError: in umount's words.
    """
    for place in reversed(mounts_below(folder)):
        try:
            _run("umount", "--lazy", str(place))
        except OverlayError:
            if place in mounts_below(place):  # else another process was first
                raise


def mounts_below(folder: Path) -> list[Path]:
    """Mount points at or below a folder, in the order of mounting."""
    wanted = folder.parent.resolve() / folder.name  # the kernel knows no links
    points = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        escaped = line.split(" ")[4]
        place = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), escaped))
        if place == wanted or wanted in place.parents:
            points.append(place)
    return points


def why_no_overlay(folder: Path) -> str | None:
    """Why an overlay with its changes below `folder` cannot be mounted; None where it can."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="overlay-probe-") as name:
        probe = Path(name)
        (probe / "lower").mkdir()
        (probe / "lower" / "file").touch()
        try:
            mount_overlay(probe / "lower", probe / "changes", probe / "merged")
        except OverlayError as error:
            return str(error)
        try:
            (probe / "merged" / "file").unlink()  # a whiteout: what a weak file system refuses
        except OSError as error:
            return f"{folder}: {error.strerror}"
        finally:
            unmount_below(probe)
    return None


def _disk_full(place: Path) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))


def _run(*argv: str) -> None:
    env = os.environ | {"LC_ALL": "C"}
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60, env=env)
    except FileNotFoundError as error:
        raise OverlayError(f"{argv[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        raise OverlayError(
            error.stderr.strip() or f"{argv[0]} ended with {error.returncode}"
        ) from error
