"""Fixtures that many tests share: the command line as a process, and a tiny repository to win on.

The tiny project is built by the tests with plain git: a function that sums in a slow way, and a
human's commit that sums in a fast one. Its pass takes a few milliseconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Cli:
    """Runs `isobench-ray` as its users do: a process of its own."""

    env: dict[str, str]

    def __call__(self, *arguments: str | Path, **options) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*arguments),
            capture_output=True,
            text=True,
            env=self.env,
            timeout=options.pop("timeout", 240),
            check=False,
            **options,
        )

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start without waiting, in a process group of its own."""
        return subprocess.Popen(
            self.argv(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.env,
            start_new_session=True,
        )

    def argv(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "isobench_ray.cli", *map(str, arguments)]


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The command line, with a cache and a temporary folder of the tests' own."""
    place = tmp_path_factory.mktemp("cli")
    return Cli(
        {
            "PATH": os.environ["PATH"],
            "HOME": str(place),
            "XDG_CACHE_HOME": str(place / "cache"),
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
    )


@dataclass(frozen=True)
class TinyProject:
    """A repository with one commit to win, and the folder for experiment files about it."""

    folder: Path
    base: str
    human: str

    def task(self, **changes) -> dict:
        """The task of its one performance commit."""
        return {
            "task_id": "sum",
            "repository": "https://example.invalid/tiny.git",
            "base_commit": self.base,
            "human_commit": self.human,
            "instruction": "Adding up long lists is slow.",
            "workload": {"kind": "python", "files": "task/", "passes": 3, "warmup_passes": 1},
            "check": {"command": "python $ISOBENCH_TASK/check.py", "files": "task/"},
            "tags": ["tiny"],
        } | changes

    def write(self, rows: list[dict] | None = None, name: str = "experiment", **changes) -> Path:
        """Write tasks and an experiment file; a change to None removes a key."""
        rows = [self.task()] if rows is None else rows
        (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        experiment = {
            "name": name,
            "tasks": {"from": f"{name}.jsonl"},
            "repositories": {"https://example.invalid/tiny.git": "tiny"},
            "agents": [{"name": "nop", "kind": "nop"}, {"name": "oracle", "kind": "oracle"}],
            "limits": {"agent_wall_s": 60, "check_s": 60, "workload_s": 60},
            "measure": {"blocks": {"pilot": 5, "max": 5}},
            "results": f"{name}-results",
        } | changes
        experiment = {key: value for key, value in experiment.items() if value is not None}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(experiment, sort_keys=False))
        return path


SLOW = """\
def total(values):
    result = 0
    for value in values:
        result += value
    return result
"""
FAST = "def total(values):\n    return sum(values)\n"
WORKLOAD = """\
import adding


def setup(seed):
    return [seed % 7 + n for n in range(100_000)]


def run(values):
    adding.total(values)
"""
CHECK = """\
import os
import sys

sys.path.insert(0, os.getcwd())
import adding

sys.exit(adding.total([1, 2, 3]) != 6)
"""


def git(folder: Path, *arguments: str) -> str:
    """Plain git, without anybody's configuration."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")} | {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    for role in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{role}_NAME": "test", f"GIT_{role}_EMAIL": "test@example.invalid"}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def tiny(tmp_path: Path) -> TinyProject:
    """A fresh tiny project."""
    repository = tmp_path / "tiny"
    repository.mkdir()
    git(repository, "init", "--quiet", "--initial-branch=main")
    hashes = []
    for text in (SLOW, FAST):
        (repository / "adding.py").write_text(text)
        git(repository, "add", "-A")
        git(repository, "commit", "--quiet", "-m", "step")
        hashes.append(git(repository, "rev-parse", "HEAD"))
    task = tmp_path / "task"
    task.mkdir()
    (task / "workload.py").write_text(WORKLOAD)
    (task / "check.py").write_text(CHECK)
    return TinyProject(tmp_path, *hashes)


@pytest.fixture
def listing() -> Iterator[Callable[[Path], list[tuple[str, int, int]]]]:
    """Names, sizes and times of everything under a path, to compare before and after."""

    def read(path: Path) -> list[tuple[str, int, int]]:
        found = sorted(path.rglob("*")) if path.exists() else []
        return [(str(p), p.lstat().st_size, p.lstat().st_mtime_ns) for p in found]

    return read
