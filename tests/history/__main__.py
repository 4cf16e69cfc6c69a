"""python -m tests.history REPOSITORY [--tasks N] [--commits FILE] [AUDIT OPTION...].

Makes an experiment of N commits of a clone, spread evenly over its first-parent history (or of the
commits in a file, one hash per line), and runs `isobench-ray audit-workspace` on it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

URL = "https://history.invalid/audited.git"


def main() -> None:
    """Write the experiment, audit it, and end with the audit's status."""
    parser = argparse.ArgumentParser(prog="python -m tests.history")
    parser.add_argument("repository", type=Path, help="a clone, bare or not")
    parser.add_argument("--tasks", type=int, default=30, help="number of commits")
    parser.add_argument("--commits", type=Path, help="file with one commit per line")
    arguments, options = parser.parse_known_args()
    commits = (
        arguments.commits.read_text().split()
        if arguments.commits
        else spread(single_parent_commits(arguments.repository), arguments.tasks)
    )
    with tempfile.TemporaryDirectory(prefix="isobench-ray-history-") as folder:
        experiment = write_experiment(Path(folder), arguments.repository.absolute(), commits)
        argv = ["-m", "isobench_ray.cli", "audit-workspace", str(experiment), *options]
        sys.exit(subprocess.run([sys.executable, *argv], check=False).returncode)


def single_parent_commits(repository: Path) -> list[str]:
    """Commits of the first-parent history that change something, oldest first, without the root."""
    listing = ("rev-list", "--first-parent", "--reverse", "--min-parents=1", "--max-parents=1")
    done = subprocess.run(
        ["git", "-C", str(repository), *listing, "HEAD"], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def spread(commits: list[str], count: int) -> list[str]:
    """So many of them, evenly spaced, the newest included."""
    if len(commits) <= count:
        return commits
    return [commits[len(commits) - 1 - n * len(commits) // count] for n in range(count)][::-1]


def write_experiment(folder: Path, repository: Path, commits: list[str]) -> Path:
    """An experiment file with one task per commit."""
    rows = [
        {
            "task_id": f"commit-{commit[:12]}",
            "repository": URL,
            "human_commit": commit,
            "instruction": "Nothing is asked; the workspace is audited.",
            "workload": {
                "command": "true",
                "metrics": {"none": {"better": "lower", "primary": True}},
            },
            "check": {"command": "true"},
        }
        for commit in commits
    ]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    experiment = {
        "name": "history",
        "tasks": {"from": "tasks.jsonl"},
        "repositories": {URL: str(repository)},
        "agents": [{"name": "nop", "kind": "nop"}],
    }
    path = folder / "experiment.yaml"
    path.write_text(json.dumps(experiment))  # JSON is YAML
    return path


if __name__ == "__main__":
    main()
