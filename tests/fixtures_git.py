"""Real histories, tasks and nodes for tests of the rooms that touch git, processes and sandboxes.

Plain functions over `tmp_path`: histories are made with plain git, without anybody's
configuration; a node is what a worker would open. `require_bubblewrap` skips, and says why.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from isobench_ray.base import Base
from isobench_ray.errors import FailureRaised
from isobench_ray.experiment import EnvironmentSpec, Limits, SandboxPolicy
from isobench_ray.repository import Repository, ResolvedTask, open_repository
from isobench_ray.sandbox import bubblewrap_version
from isobench_ray.stages.node import Node, open_node
from isobench_ray.task import Task

URL = "https://example.invalid/tiny.git"

Files = Mapping[str, str | bytes | None]
"""Content by path; None removes the file."""


def run_git(folder: Path, *arguments: str, data: bytes | None = None, check: bool = True) -> str:
    """Plain git in a folder, without anybody's configuration."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for role in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{role}_NAME": "test", f"GIT_{role}_EMAIL": "test@example.invalid"}
        env |= {f"GIT_{role}_DATE": "2001-02-03T04:05:06+0000"}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=env, input=data, capture_output=True, check=check
    )
    return done.stdout.decode().strip()


def write_all(folder: Path, files: Files) -> None:
    """Write and remove files below a folder."""
    for name, content in files.items():
        path = folder / name
        if content is None:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


class History(NamedTuple):
    """A repository with one commit to win; the branch `main` ends at the human's."""

    folder: Path
    base: str
    human: str


def make_history(folder: Path, base: Files, human: Files) -> History:
    """A repository of three commits: a first one, base, and the human's."""
    folder.mkdir(parents=True)
    run_git(folder, "init", "--quiet", "--initial-branch=main")
    write_all(folder, {"first.txt": "the first commit\n"})
    commit_all(folder, "first")
    write_all(folder, base)
    base_commit = commit_all(folder, "base")
    write_all(folder, human)
    return History(folder, base_commit, commit_all(folder, "human"))


def commit_all(folder: Path, message: str) -> str:
    """Commit everything, ignored files too; the commit's hash."""
    run_git(folder, "add", "--all", "--force")
    run_git(folder, "commit", "--quiet", "--allow-empty", "-m", message)
    return run_git(folder, "rev-parse", "HEAD")


def tree_of(folder: Path, commit: str = "HEAD") -> str:
    """Git's own tree id of a commit."""
    return run_git(folder, "rev-parse", f"{commit}^{{tree}}")


def make_task(history: History, **changes: Any) -> Task:
    """A task over a history; its check always passes, unless changed."""
    row = {
        "task_id": "tiny",
        "repository": URL,
        "base_commit": history.base,
        "human_commit": history.human,
        "instruction": "It is slow.",
        "workload": {
            "command": "true",
            "metrics": {"latency_ms": {"better": "lower", "primary": True}},
        },
        "check": {"command": "true"},
    }
    return Task.model_validate(row | changes)


class Baked(NamedTuple):
    """What driver and worker know of a task."""

    repository: Repository
    resolved: ResolvedTask
    base: Base


def bake(history: History, cache: Path) -> Baked:
    """Resolve the history's task and bake its base, as the driver does."""
    repository = open_repository(URL, str(history.folder), cache)
    resolved = repository.resolve(make_task(history))
    return Baked(repository, resolved, repository.bake(resolved.base_tree))


def make_node(folder: Path, sandbox: str = "none", **limits: float) -> Node:
    """A worker's node with its scratch folder at `folder`."""
    policy = SandboxPolicy.model_validate({"kind": sandbox})
    return open_node(EnvironmentSpec(), policy, Limits.model_validate(limits), folder)


def require_bubblewrap() -> None:
    """Skip the test, loudly, where bubblewrap does not work."""
    try:
        bubblewrap_version()
    except FailureRaised as error:
        pytest.skip(f"NO SANDBOX ON THIS MACHINE, containment is untested here: {error}")


def wait_for(condition: Callable[[], Any], limit_s: float = 10.0) -> Any:
    """Wait until a condition is true and return it; fails the test if it never becomes true."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not true within {limit_s:g} s"
        time.sleep(0.01)
    return value
