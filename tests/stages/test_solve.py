"""The solve stage from end to end: real git, a real agent process, and the record of what became.

Most of it runs without a sandbox; what only containment can promise is marked `sandbox`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from isobench_ray.agents import AGENTS
from isobench_ray.experiment import AgentSpec
from isobench_ray.prompt import render_prompt
from isobench_ray.schema import sha256_hex
from isobench_ray.stages.solve import SolveWork, solve
from isobench_ray.task import TaskFiles
from isobench_ray.trial import Outcome, Trial, TrialRecord
from tests.fixtures_git import (
    History,
    bake,
    make_history,
    make_node,
    make_task,
    require_bubblewrap,
    tree_of,
)

BASE = {"a.py": "".join(f"line {n}\n" for n in range(9)), ".gitignore": "*.log\n"}
HUMAN = {"a.py": "fast\n"}
EDIT = {"edit": {"path": "a.py", "find": "line 4\n", "replace": "line four\n"}}
STALE = b"--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-faster\n+fastest\n"
FILES = {"stale.patch": STALE, "bench.py": b"secret workload\n"}


class Solved(NamedTuple):
    record: TrialRecord
    artifacts: Path
    history: History

    def text(self, name: str) -> str:
        return (self.artifacts / name).read_text()


def run(
    folder: Path, *steps: dict[str, Any], kind: str = "scripted", wall_s: float = 30,
    sandbox: str = "none", visible: bool = False,
) -> Solved:  # fmt: skip
    """Solve the tiny task with one agent."""
    history = make_history(folder / "origin", BASE, HUMAN)
    baked = bake(history, folder / "cache")
    task = make_task(history, check={"command": "true", "visible": visible})
    row = {"name": "robot", "kind": kind} | ({"steps": list(steps)} if kind == "scripted" else {})
    spec = AgentSpec.model_validate(row)
    agent = AGENTS[kind].load(spec, task, baked.resolved.human_diff, FILES.__getitem__)
    work = SolveWork(
        trial=Trial(task_id="tiny", agent="robot", attempt=2, solve_identity="5" * 64),
        task=task,
        task_files=TaskFiles(
            files={"bench.py": FILES["bench.py"], "hidden.py": b""},
            visible=("bench.py",) if visible else (),
        ),
        agent_kind=kind,
        agent=agent,
        prompt=render_prompt(task, wall_s),
        agent_wall_s=wall_s,
        concurrency=3,
    )
    (folder / "artifacts").mkdir()
    node = make_node(folder / "node", sandbox)
    record = solve(work, baked.base, 7, node, folder / "artifacts")
    assert not (folder / "node" / "workspace").exists()
    return Solved(record, folder / "artifacts", history)


def test_nop_has_no_patch(tmp_path):
    solved = run(tmp_path, kind="nop")
    record = solved.record
    assert record.outcome is Outcome.NO_PATCH
    assert record.patch is None
    assert record.exit_code is None
    assert (record.status, record.metrics.patch_size_loc) == ("error", 0)
    assert solved.text("model_patch.diff") == ""


def test_oracle_hands_in_exactly_the_humans_tree(tmp_path):
    solved = run(tmp_path, kind="oracle")
    assert solved.record.outcome is Outcome.PATCH
    assert solved.record.patch.tree == tree_of(solved.history.folder, solved.history.human)
    assert (solved.record.patch.lines_added, solved.record.patch.lines_removed) == (1, 9)
    assert solved.record.exit_code is None


def test_an_edit_is_a_patch_with_all_its_facts(tmp_path):
    solved = run(tmp_path, EDIT)
    record, patch = solved.record, solved.record.patch
    assert (record.outcome, record.outcome_detail, record.exit_code) == (Outcome.PATCH, None, 0)
    assert patch.files == ("a.py",)
    assert (patch.lines_added, patch.lines_removed) == (1, 1)
    assert patch.base_tree == record.base_tree == tree_of(solved.history.folder, record.base_commit)
    assert patch.sha256 == sha256_hex((solved.artifacts / "model_patch.diff").read_bytes())
    assert "+line four" in solved.text("model_patch.diff")
    assert (record.trial_id, record.execution) == ("tiny/robot/attempt-2", 7)
    assert (record.solve_identity, record.concurrency) == ("5" * 64, 3)
    assert record.usage.steps == 1
    assert record.usage.cost_usd is None
    assert record.sandbox.mechanism == "none"
    assert record.ended_at > record.started_at
    assert 0 < record.agent_s < 30
    assert record.workspace_s > 0
    assert record.extract_s > 0


def test_the_fields_and_files_that_isobenchs_readers_know_are_there(tmp_path):
    solved = run(tmp_path, EDIT)
    record, history = solved.record, solved.history
    assert record.status == "success"
    assert (record.commits.pre, record.commits.human) == (history.base, history.human)
    assert (record.metrics.patch_size_loc, record.metrics.changed_files_count) == (2, 1)
    assert record.timestamps.written == pytest.approx(record.ended_at.timestamp())
    summary = json.loads(solved.text("run_summary.json"))
    assert summary["schema_version"] == "1.0"
    assert summary["commits"] == {"human": history.human, "pre": history.base}
    assert summary["agent"]["patch_generated"] is True
    assert summary["agent"]["patch_stats"] == {
        "lines_added": 1, "lines_removed": 1, "files_changed": 1,
    }  # fmt: skip
    assert json.loads(solved.text("trajectory.json"))[0]["tool"] == "edit"
    (step,) = solved.text("steps.jsonl").splitlines()
    assert json.loads(step)["tool"] == "edit"
    names = {path.name for path in solved.artifacts.iterdir()}
    assert {"prompt.md", "model_patch.diff", "stdout.log", "stderr.log"} <= names


def test_the_prompt_is_the_one_that_is_hashed_and_says_nothing_of_the_human(tmp_path):
    solved = run(tmp_path, {"run": "cat ../agent/prompt.md"})
    assert solved.text("stdout.log") == solved.text("prompt.md")
    assert solved.record.prompt_sha256 == sha256_hex(solved.text("prompt.md").encode())
    assert "It is slow." in solved.text("prompt.md")
    assert solved.history.human[:7] not in solved.text("prompt.md")


def test_a_submitted_patch_counts_instead_of_the_workspace_and_is_kept_when_stale(tmp_path):
    solved = run(tmp_path, EDIT, {"submit": "stale.patch"})
    record = solved.record
    assert record.outcome is Outcome.PATCH
    assert record.patch.tree is None
    assert "a.py: patch does not apply" in record.patch.apply_error
    assert record.metrics.changed_files_count is None
    assert solved.text("model_patch.diff") == STALE.decode()


def test_an_agent_over_its_limit_is_a_timeout_with_the_patch_it_had(tmp_path):
    solved = run(tmp_path, EDIT, {"sleep_s": 600}, {"exit": 0}, wall_s=1.5)
    record = solved.record
    assert record.outcome is Outcome.TIMEOUT
    assert record.outcome_detail == "stopped at its limit of 1.5 s"
    assert record.patch.files == ("a.py",)
    assert "+line four" in solved.text("model_patch.diff")
    assert 1.5 <= record.agent_s < 10
    assert record.usage.steps == 1  # the whole line of its trajectory
    assert record.status == "error"


def test_an_agent_that_exits_with_a_status_is_an_agent_error_with_the_patch_it_had(tmp_path):
    solved = run(tmp_path, EDIT, {"run": "echo out of ideas >&2"}, {"exit": 3})
    assert solved.record.outcome is Outcome.AGENT_ERROR
    assert solved.record.outcome_detail == "ended with status 3"
    assert solved.record.exit_code == 3
    assert solved.record.patch.files == ("a.py",)
    assert solved.text("stderr.log") == "out of ideas\n"


def test_an_agent_that_is_killed_is_an_agent_error_with_the_signal(tmp_path):
    solved = run(tmp_path, {"run": "kill -9 $PPID"})
    assert solved.record.outcome is Outcome.AGENT_ERROR
    assert solved.record.exit_code == -9
    assert solved.record.patch is None
    assert solved.record.usage.steps == 0


def test_a_file_becomes_a_change_only_if_the_base_does_not_ignore_it(tmp_path):
    solved = run(tmp_path, {"run": "echo x > debug.log; echo y > new.py"})
    assert solved.record.patch.files == ("new.py",)


def test_an_agent_that_undoes_its_edit_has_no_patch(tmp_path):
    solved = run(tmp_path, EDIT, {"run": "git checkout --quiet a.py"})
    assert solved.record.outcome is Outcome.NO_PATCH
    assert solved.record.patch is None


def test_a_link_in_place_of_a_submission_or_a_trajectory_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("key of the harness")
    steal = f"ln -sf {tmp_path}/secret ../agent/submission.diff"
    and_steal = f"rm ../agent/trajectory.json; ln -s {tmp_path}/secret ../agent/trajectory.json"
    solved = run(tmp_path, EDIT, {"run": steal}, {"run": and_steal})
    assert solved.record.outcome is Outcome.PATCH  # the links could be made
    assert solved.record.patch.files == ("a.py",)
    for path in solved.artifacts.iterdir():
        assert "key of the harness" not in path.read_text()


@pytest.mark.parametrize("visible", [True, False])
def test_the_checks_files_are_there_only_when_the_task_says_so(tmp_path, visible):
    solved = run(tmp_path, {"run": "ls $ISOBENCH_TASK"}, visible=visible)
    assert solved.text("stdout.log") == ("bench.py\n" if visible else "")


def test_an_agent_that_breaks_its_workspace_still_leaves_a_record(tmp_path):
    solved = run(tmp_path, {"run": "rm -rf .git a.py; mkfifo a.py; chmod -R a-w ."})
    assert solved.record.outcome is Outcome.PATCH
    assert solved.record.patch.files == ("a.py",)


@pytest.mark.sandbox
def test_in_the_sandbox_the_same_agent_makes_the_same_patch(tmp_path):
    require_bubblewrap()
    inside = run(tmp_path / "inside", EDIT, {"run": "pwd"}, sandbox="auto")
    outside = run(tmp_path / "outside", EDIT)
    assert inside.record.patch == outside.record.patch
    assert inside.text("stdout.log") == "/workspace\n"
    assert inside.record.sandbox.mechanism == "bubblewrap"
    assert inside.record.sandbox.network == "none"


@pytest.mark.sandbox
def test_in_the_sandbox_there_is_no_way_to_the_humans_commit(tmp_path):
    require_bubblewrap()
    history = make_history(tmp_path / "same", BASE, HUMAN)  # the same hashes as the task's
    look = f"git cat-file -t {history.human} || echo absent; git rev-list --all --count"
    roam = "find / -name a.py -not -path '/proc/*' -exec grep -l '^fast$' {} +; echo looked"
    solved = run(tmp_path, {"run": look}, {"run": roam}, sandbox="auto")
    assert solved.history.human == history.human
    assert solved.text("stdout.log").splitlines() == ["absent", "1", "looked"]
    open_room = run(tmp_path / "control", {"run": f"cat {tmp_path}/same/a.py"})
    assert open_room.text("stdout.log") == "fast\n"  # positive control: it lies on this machine
