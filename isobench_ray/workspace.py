"""The Workspace: a checkout of the base commit with no way to the human's.

The agent gets a git directory with one neutral commit whose objects are exactly the base tree. The
harness keeps a second git directory outside of the agent's reach (extraction.py takes the patch
with that one). Files are written plainly, or shown through a kernel overlay over a layer that was
written once; nothing is ever hard-linked or reused between trials.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from isobench_ray.base import Base
from isobench_ray.failure import FailureClass, fail
from isobench_ray.overlay import OverlayError, mount_overlay, unmount_below

WorkspaceKind = Literal["copy", "overlay"]
REMOVAL_WAITS_S = (0.0, 0.1, 1.0, 0.0)
"""Waits after a removal that failed: a worker that was killed a moment ago may have left a mount(8)
that is not done yet."""


def open_harness(base: Base, folder: Path) -> Path:
    """A bare git directory with the base's objects, for the harness alone."""
    base.write_git(folder, bare=True)
    return folder


@contextlib.contextmanager
def open_workspace(base: Base, room: Path, kind: WorkspaceKind = "copy") -> Iterator[Path]:
    """A fresh workspace, the folder `workspace` in `room`; removed at the end whatever happens.

    With kind `overlay` the base is written once, to the folder `layer-TREE` in `room`, where later
    workspaces of the same base find it; a layer of another base is removed.

    Raises:
        FailureRaised: scratch_in_repository.
        OSError: the disk is full.
    """
    _refuse_repository(room)
    folder, changes = room / "workspace", room / "changes"
    for old in (folder, changes):
        remove_tree(old)
    try:
        if kind == "overlay":
            mount_overlay(_layer(base, room), changes, folder)
        else:
            _write(base, folder)
        yield folder
    finally:
        for old in (folder, changes):
            remove_tree(old)


def layer_of(base: Base, room: Path) -> Path:
    """Where the base's files lie for overlays, if they were written."""
    return room / f"layer-{base.tree}"


def remove_tree(folder: Path) -> None:
    """Remove a folder whatever is in it: mounts, any depth, folders without permissions.

    Raises:
        OSError: something cannot be unmounted or removed, in the words of umount or rm.
    """
    if not os.path.lexists(folder):
        return
    remove = ["rm", "-rf", "--", str(folder)]
    allow = ["chmod", "-R", "u+rwX", "--", str(folder)]
    problem = ""
    for wait_s in REMOVAL_WAITS_S:
        try:
            unmount_below(folder)
        except OverlayError as error:
            problem = str(error)
        else:
            done = subprocess.run(remove, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            problem = done.stderr.strip()
        subprocess.run(allow, capture_output=True, check=False)
        time.sleep(wait_s)
    raise OSError(f"cannot remove {folder}: {problem}")


def remove_other_layers(base: Base, room: Path) -> None:
    """Remove the layers of other bases, and one that was not finished."""
    layer, unfinished = layer_of(base, room), room / "layer-unfinished"
    remove_tree(unfinished)
    for other in room.glob("layer-*"):
        if other != layer:
            other.rename(unfinished)  # none is ever half removed under its own name
            remove_tree(unfinished)


def _layer(base: Base, room: Path) -> Path:
    """The base, written for overlays to lie upon; it appears whole or not at all."""
    layer, unfinished = layer_of(base, room), room / "layer-unfinished"
    remove_other_layers(base, room)
    if not layer.is_dir():
        try:
            _write(base, unfinished)
            unfinished.rename(layer)
        finally:
            remove_tree(unfinished)
    return layer


def _write(base: Base, folder: Path) -> None:
    folder.mkdir()
    base.write_files(folder)
    base.write_git(folder / ".git", bare=False)


def _refuse_repository(room: Path) -> None:
    """An agent that removes its .git must not find another repository around it."""
    place = room.resolve()
    for parent in (place, *place.parents):
        if os.path.lexists(parent / ".git"):
            raise fail(
                FailureClass.SCRATCH_IN_REPOSITORY,
                f"the scratch folder {room} lies in the git repository {parent}",
            )
