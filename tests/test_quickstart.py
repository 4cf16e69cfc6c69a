"""The quickstart's promises: its commits, its checks, its agents' patches, and what it gives away.

Nothing is measured here; that every kind of verdict comes out right is the calibration's work.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from isobench_ray.experiment_file import LoadedExperiment, load_experiment
from isobench_ray.plumbing import (
    GitError,
    apply_to_tree,
    checkout_tree,
    diff_trees,
    git_word,
    init_bare,
)
from isobench_ray.repository import build_series
from isobench_ray.task import Task
from isobench_ray.task_source import load_tasks

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "quickstart.yaml"
FOLDER = EXPERIMENT.parent / "quickstart"
GAINLESS = "minserve-latency-quantile"


@cache
def loaded() -> LoadedExperiment:
    return load_experiment(EXPERIMENT)


@cache
def tasks() -> dict[str, Task]:
    return {item.task.task_id: item.task for item in load_tasks(loaded())}


def scripted_patches() -> list[tuple[str, str, str]]:
    """(agent, task, patch file) of everything that a scripted agent applies or submits."""
    found = []
    for agent in loaded().experiment.agents:
        steps = agent.steps if isinstance(agent.steps, dict) else {}
        if agent.steps is not None and not isinstance(agent.steps, dict):
            steps = dict.fromkeys(agent.select.ids or (), agent.steps)
        for task_id, script in steps.items():
            for step in script:
                name = step.apply or step.submit
                if name is not None:
                    found.append((agent.name, task_id, name))
    return found


TASK_IDS = sorted(tasks())
PATCHES = scripted_patches()


class Built(NamedTuple):
    """The series as a repository, and its trees as folders."""

    git_dir: Path
    last: str
    checkouts: Path

    def tree(self, commit: str) -> str:
        return git_word(self.git_dir, "rev-parse", f"{commit}^{{tree}}")

    def patched(self, task_id: str, name: str) -> str:
        """The tree after a scripted patch."""
        patch = (EXPERIMENT.parent / name).read_bytes()
        return apply_to_tree(self.git_dir, self.tree(tasks()[task_id].base_commit), patch)

    def checkout(self, tree: str) -> Path:
        folder = self.checkouts / tree
        if not folder.exists():
            checkout_tree(self.git_dir, tree, folder)
        return folder

    def check(self, task_id: str, tree: str) -> subprocess.CompletedProcess[str]:
        """Run a task's check in a tree, with plain Python."""
        folder = EXPERIMENT.parent / "quickstart" / "tasks" / task_id
        return subprocess.run(
            [sys.executable, "-B", str(folder / "check.py")],
            cwd=self.checkout(tree), env={"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0"},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Built:
    folder = tmp_path_factory.mktemp("quickstart")
    init_bare(folder / "minserve.git")
    last = build_series(FOLDER / "minserve", folder / "minserve.git")
    return Built(folder / "minserve.git", last, folder / "checkouts")


def test_there_are_six_commits_to_win_and_more_and_one_without_a_gain():
    assert len(TASK_IDS) >= 7
    assert GAINLESS in TASK_IDS
    assert len({task.human_commit for task in tasks().values()}) == len(TASK_IDS)


def test_the_series_builds_to_the_commits_that_the_tasks_name(built):
    assert f"`{built.last}`" in (FOLDER / "README.md").read_text()
    history = git_word(built.git_dir, "rev-list", built.last).split()
    for task in tasks().values():
        assert task.human_commit in history
        assert git_word(built.git_dir, "rev-parse", f"{task.human_commit}^") == task.base_commit


@pytest.mark.parametrize("task_id", TASK_IDS)
def test_a_check_passes_on_base_and_on_the_humans_commit(built, task_id):
    for commit in (tasks()[task_id].base_commit, tasks()[task_id].human_commit):
        done = built.check(task_id, built.tree(commit))
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("task_id", TASK_IDS)
def test_a_check_fails_where_the_code_is_broken(built, task_id):
    """Positive control: every check really runs the code that it is about."""
    task = tasks()[task_id]
    source = built.checkout(built.tree(task.base_commit))
    changed = git_word(
        built.git_dir, "diff", "--name-only", task.base_commit, task.human_commit, "--", "minserve"
    )
    broken = built.checkouts / f"broken-{task_id}"
    subprocess.run(["cp", "-r", str(source), str(broken)], check=True)
    for name in changed.split():
        (broken / name).write_text("raise RuntimeError('broken on purpose')\n")
    check = FOLDER / "tasks" / task_id / "check.py"
    argv = [sys.executable, "-B", str(check)]
    done = subprocess.run(argv, cwd=broken, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "broken on purpose" in done.stderr


@pytest.mark.parametrize(("agent", "task_id", "name"), PATCHES)
def test_a_check_tells_the_wrong_patches_from_the_right_ones(built, agent, task_id, name):
    if agent == "stale":
        with pytest.raises(GitError, match="patch does not apply"):
            built.patched(task_id, name)
        return
    done = built.check(task_id, built.patched(task_id, name))
    if agent == "wrong":
        assert done.returncode == 1
        assert "expected" in done.stderr
        assert "Traceback" not in done.stderr
    else:
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("agent", "task_id", "name"), [p for p in PATCHES if p[0] != "stale"])
def test_every_scripted_patch_yields_a_tree_of_its_own(built, agent, task_id, name):
    task = tasks()[task_id]
    trees = [built.tree(task.base_commit), built.tree(task.human_commit)]
    assert built.patched(task_id, name) not in trees


def test_the_stale_patch_applies_to_the_humans_tree_only(built):
    ((_, task_id, name),) = (p for p in PATCHES if p[0] == "stale")
    human = built.tree(tasks()[task_id].human_commit)
    patch = (EXPERIMENT.parent / name).read_bytes()
    assert apply_to_tree(built.git_dir, human, patch) != human


@pytest.mark.parametrize("task_id", [p[1] for p in PATCHES if p[0] == "equivalent"])
def test_the_equivalent_patch_is_the_humans_change_and_comments(built, task_id):
    name = next(p[2] for p in PATCHES if p[:2] == ("equivalent", task_id))
    human = built.tree(tasks()[task_id].human_commit)
    diff = diff_trees(built.git_dir, human, built.patched(task_id, name)).decode()
    lines = [
        line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    code = [line[1:].strip() for line in lines]
    assert code
    assert all(line == "" or line.startswith("#") for line in code if code.count(line) % 2)


def given_away(built: Built, task: Task, instruction: str) -> list[str]:
    """The lines that the human added which stand in an instruction."""
    trees = built.tree(task.base_commit), built.tree(task.human_commit)
    lines = diff_trees(built.git_dir, *trees).decode().splitlines()
    added = {x[1:].strip() for x in lines if x.startswith("+") and not x.startswith("+++")}
    telling = {line for line in added if len(line) > 8}
    assert telling
    return [line for line in telling if line in instruction]


@pytest.mark.parametrize("task_id", TASK_IDS)
def test_an_instruction_gives_no_added_line_of_the_human_away(built, task_id):
    task = tasks()[task_id]
    assert given_away(built, task, task.instruction) == []
    subject = git_word(built.git_dir, "log", "-1", "--format=%s", task.human_commit)
    assert subject.lower() not in task.instruction.lower()


def test_an_instruction_that_gives_a_line_away_would_be_noticed(built):
    task = tasks()["minserve-block-evictor"]
    told = f"{task.instruction} (`from heapq import heapify, heappop, heappush` may help.)"
    assert given_away(built, task, told) == ["from heapq import heapify, heappop, heappush"]


def test_no_check_or_workload_is_visible_to_the_agents():
    assert not any(task.check.visible for task in tasks().values())


def test_every_kind_of_agent_that_the_report_should_show_is_there():
    kinds = {agent.name for agent in loaded().experiment.agents}
    assert kinds == {
        "nop", "oracle", "equivalent", "partial", "bigger", "placebo", "slower", "wrong", "stale",
        "dawdler", "crasher",
    }  # fmt: skip


def test_no_patch_file_lies_there_unused():
    used = {Path(name).name for _, _, name in PATCHES}
    assert {path.name for path in (FOLDER / "agents").glob("*.patch")} == used
