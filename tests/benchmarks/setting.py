"""Where rows about workspaces are measured, and on what tree.

On tmpfs where there is room, because a disk's state says more about itself than about us; an ext4
without a journal gets slower with every file that was ever removed from it, so it is named.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.row import Setting
from tests.fixtures_git import History, bake, commit_all, run_git
from tests.tree_of_shape import NEWEST_VLLM_PARENT, write_tree

NEEDED_BYTES = 500_000_000


class FileSystem(NamedTuple):
    """What a folder lies on."""

    kind: str
    source: str
    """The device, or another word of the kernel's."""
    without_journal: bool


def default_place() -> Path:
    """/dev/shm if it has room, else the folder for temporary files."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK)
    if usable and shutil.disk_usage(memory).free >= NEEDED_BYTES:
        return memory
    return Path(tempfile.gettempdir())


def file_system_of(folder: Path) -> FileSystem:
    """The file system of a folder, by /proc/mounts; ext4 also by what it says of its journal."""
    place, found = folder.resolve(), ("", "", Path("/"))
    for line in Path("/proc/mounts").read_text().splitlines():
        source, point, kind = line.split(" ")[:3]
        mounted = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point))
        if place.is_relative_to(mounted) and len(mounted.parts) >= len(found[2].parts):
            found = kind, source, mounted
    kind, source, _ = found
    task = Path("/sys/fs/ext4") / Path(source).resolve().name / "journal_task"
    without = kind == "ext4" and task.is_file() and task.read_text().strip() == "<none>"
    return FileSystem(kind, source, without)


def prepare(folder: Path, repository: Path | None, commit: str | None) -> Setting:
    """A mirror and a baked base of a real commit's tree, or of a generated one."""
    mirror = folder / "mirror.git"
    run_git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(mirror))
    if repository is None:
        made = folder / "made"
        write_tree(made, NEWEST_VLLM_PARENT)
        run_git(made, "init", "--quiet", "--initial-branch=main")
        tree = f"{commit_all(made, 'generated')}^{{tree}}"
        run_git(mirror, "fetch", "--quiet", str(made), "main")
        shutil.rmtree(made)
    else:
        objects = run_git(
            repository, "rev-parse", "--path-format=absolute", "--git-path", "objects"
        )
        (mirror / "objects" / "info" / "alternates").write_text(f"{objects}\n")
        tree = f"{commit}^{{tree}}"
    tree = run_git(mirror, "rev-parse", tree)
    base = run_git(mirror, "commit-tree", tree, "-m", "base")
    human = run_git(mirror, "commit-tree", tree, "-p", base, "-m", "nothing changed")
    run_git(mirror, "update-ref", "refs/heads/main", human)
    baked = bake(History(mirror, base, human), folder / "cache")
    return Setting(baked.base, mirror, base, folder)


def described(setting: Setting, repository: Path | None, commit: str | None) -> str:
    """One sentence on the tree that is measured."""
    files = len(setting.base.entries)
    paths = [Path(os.fsdecode(entry.path)) for entry in setting.base.entries]
    folders = {folder for path in paths for folder in path.parents} - {Path()}
    of = f"commit {commit}" if repository else "a generated tree of the newest vLLM parent's shape"
    size_mb = len(setting.base.content) / 1e6
    return f"{files:,} files, {size_mb:.1f} MB, {len(folders)} folders: {of}"
