"""The scripted agent: its steps through the real runner, and what is read of a cut-off one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from isobench_ray.agents import AGENTS, Account, AgentInput, AgentPaths
from isobench_ray.agents.scripted import Scripted
from isobench_ray.errors import UserError
from isobench_ray.experiment import AgentSpec
from isobench_ray.runners import __file__ as runners_file
from isobench_ray.task import Task
from tests import builders
from tests.fixtures_git import run_git

PATCH = b"--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-one\n+two\n"
FILES = {"two.patch": PATCH, "stale.patch": PATCH.replace(b"-one", b"-seven")}


def spec(steps: Any) -> AgentSpec:
    return AgentSpec.model_validate({"name": "robot", "kind": "scripted", "steps": steps})


def load(steps: Any, task_id: str = "t1") -> AgentInput:
    task = Task.model_validate(builders.task_row(task_id))
    return Scripted().load(spec(steps), task, b"", FILES.__getitem__)


class Ran(NamedTuple):
    status: int
    account: Account
    workspace: Path
    submission: Path
    stderr: str


def run(folder: Path, *steps: dict[str, Any]) -> Ran:
    """Run steps as a worker does, but for the sandbox."""
    workspace, files = folder / "workspace", folder / "files"
    workspace.mkdir()
    files.mkdir()
    run_git(workspace, "init", "--quiet")
    (workspace / "a.py").write_text("one\n")
    for name, content in load(list(steps)).files.items():
        (files / name).write_bytes(content)
    submission = folder / "submission.diff"
    paths = AgentPaths(
        python=sys.executable, workspace=str(workspace), files=str(files),
        harness=str(Path(runners_file).parent), prompt="", submission=str(submission),
        trajectory=str(folder / "trajectory.json"),
    )  # fmt: skip
    argv = Scripted().command(paths)
    done = subprocess.run(argv, cwd=workspace, capture_output=True, text=True, check=False)
    return Ran(done.returncode, Scripted().read_account(folder), workspace, submission, done.stderr)


def test_all_kinds_of_steps_run_in_order(tmp_path):
    ran = run(
        tmp_path,
        {"apply": "two.patch"},
        {"edit": {"path": "a.py", "find": "two", "replace": "three"}},
        {"write": {"path": "new/deep/b.py", "text": "b = 'ü'\n"}},
        {"run": "echo from the shell > c.txt"},
        {"sleep_s": 0.05},
        {"submit": "two.patch"},
        {"exit": 0},
    )
    assert ran.status == 0
    assert (ran.workspace / "a.py").read_text() == "three\n"
    assert (ran.workspace / "new" / "deep" / "b.py").read_text() == "b = 'ü'\n"
    assert (ran.workspace / "c.txt").read_text() == "from the shell\n"
    assert ran.submission.read_bytes() == PATCH
    tools = [step.tool for step in ran.account.steps]
    assert tools == ["apply", "edit", "write", "run", "sleep_s", "submit", "exit"]
    assert [step.index for step in ran.account.steps] == list(range(7))
    assert {step.exit for step in ran.account.steps} == {0}
    assert ran.account.usage.steps == 7
    assert ran.account.usage.cost_usd is None  # unknown, not nothing
    times = [step.time_s for step in ran.account.steps]
    assert times == sorted(times)
    assert times[4] - times[3] >= 0.04


def test_the_trajectory_of_a_whole_run_is_json(tmp_path):
    run(tmp_path, {"run": "true"}, {"run": "true"})
    assert len(json.loads((tmp_path / "trajectory.json").read_text())) == 2


def test_exit_ends_with_its_status_and_skips_what_follows(tmp_path):
    ran = run(tmp_path, {"exit": 3}, {"write": {"path": "late.py", "text": ""}})
    assert ran.status == 3
    assert not (ran.workspace / "late.py").exists()
    assert [step.exit for step in ran.account.steps] == [3]


@pytest.mark.parametrize(
    ("step", "status", "words"),
    [
        ({"run": "echo out of ideas >&2; exit 7"}, 7, "out of ideas"),
        ({"apply": "stale.patch"}, 1, "patch does not apply"),
        ({"edit": {"path": "a.py", "find": "nine", "replace": "x"}}, 1, "occurs 0 times"),
    ],
)
def test_a_step_that_fails_ends_the_agent_with_its_status_and_words(tmp_path, step, status, words):
    ran = run(tmp_path, step, {"write": {"path": "late.py", "text": ""}})
    assert ran.status == status
    assert words in ran.stderr
    assert not (ran.workspace / "late.py").exists()
    assert (ran.workspace / "a.py").read_text() == "one\n"


def test_a_passage_that_occurs_twice_is_not_edited(tmp_path):
    double = {"write": {"path": "a.py", "text": "x = 1\nx = 1\n"}}
    ran = run(tmp_path, double, {"edit": {"path": "a.py", "find": "x = 1", "replace": "x = 2"}})
    assert ran.status == 1
    assert (ran.workspace / "a.py").read_text() == "x = 1\nx = 1\n"


def test_no_steps_at_all_is_a_run_without_a_change(tmp_path):
    ran = run(tmp_path)
    assert (ran.status, ran.account.steps) == (0, ())
    assert json.loads((tmp_path / "trajectory.json").read_text()) == []


# Reading what is left


@pytest.mark.parametrize("keep", range(0, 400, 23))
def test_a_trajectory_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path, keep):
    run(tmp_path, *[{"run": f"true {n}"} for n in range(4)])
    whole = (tmp_path / "trajectory.json").read_text()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "trajectory.json").write_text(whole[:keep])
    steps = Scripted().read_account(tmp_path).steps
    ends = [sum(map(len, lines[: n + 1])) - 2 for n in range(4)]  # before the comma
    assert len(steps) == sum(end <= keep for end in ends)
    assert [step.arguments for step in steps] == [f'"true {n}"' for n in range(len(steps))]


def test_an_absent_trajectory_is_an_unknown_number_of_steps(tmp_path):
    assert Scripted().read_account(tmp_path) == Account()
    assert Scripted().read_account(tmp_path).usage.steps is None


@pytest.mark.parametrize(
    "damage",
    [b"5\n", b"null\n", b'"text"\n', b"{}\n", b'{"tool": "run"}\n', b"\xff\xfe\n", b"[[]]\n"],
    ids=repr,
)
def test_a_trajectory_that_the_agent_damaged_gives_what_it_can(tmp_path, damage):
    row = b'{"tool": "run", "arguments": "\\"x\\"", "exit": 0, "time_s": 0.1}'
    (tmp_path / "trajectory.json").write_bytes(b"[" + row + b",\n" + damage + b"]\n")
    assert [step.tool for step in Scripted().read_account(tmp_path).steps][:1] == ["run"]


# What travels, and what it is hashed by


def test_steps_by_task_give_each_task_its_own(tmp_path):
    steps = {"t1": [{"exit": 1}], "t2": [{"exit": 2}]}
    assert load(steps, "t2").config["steps"] == [{"exit": 2}]
    with pytest.raises(UserError, match="agent 'robot': steps: none for task 't3'"):
        load(steps, "t3")


def test_the_content_of_a_patch_file_is_part_of_the_configuration_its_name_is_not():
    first, same, other = (load([{"apply": name}]) for name in ("two.patch",) * 2 + ("stale.patch",))
    assert first.config == same.config
    assert first.config != other.config
    FILES["copy.patch"] = PATCH
    assert load([{"apply": "copy.patch"}]).config == first.config


def test_prepared_agents_start_no_program():
    paths = AgentPaths(*["x"] * 7)
    assert AGENTS["nop"].command(paths) is None
    assert AGENTS["oracle"].command(paths) is None
    assert AGENTS["scripted"].command(paths) is not None
