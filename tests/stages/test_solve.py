"""The solve stage from end to end: real git, a real agent process, and the record of what became.

Most of it runs without a sandbox; what only containment can promise is marked `sandbox`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from isobench_ray.agents import AGENTS
from isobench_ray.errors import FailureRaised
from isobench_ray.experiment import (
    AgentSpec,
    EnvironmentSpec,
    Limits,
    PatchPolicy,
    SandboxPolicy,
    WorkspaceSettings,
)
from isobench_ray.failure import FailureClass
from isobench_ray.overlay import mounts_below
from isobench_ray.prompt import render_prompt
from isobench_ray.schema import sha256_hex
from isobench_ray.stages.node import Node, clear_scratch, open_node
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
    sandbox: str = "none", visible: bool = False, node: Node | None = None,
    policy: PatchPolicy | None = None, base: dict[str, str] | None = None,
) -> Solved:  # fmt: skip
    """Solve the tiny task with one agent, on a node of its own unless one is given."""
    history = make_history(folder / "origin", base or BASE, HUMAN)
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
        patch_policy=policy or PatchPolicy(),
    )
    node = node or make_node(folder / "node", sandbox)
    artifacts = clear_scratch(node, baked.base)
    record = solve(work, baked.base, 7, node, artifacts)
    assert not (node.scratch / "workspace").exists()
    return Solved(record, artifacts.rename(folder / "artifacts"), history)


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


def test_what_was_left_out_of_a_patch_is_in_the_journal(tmp_path):
    left = "echo x > debug.log; mkdir __pycache__; echo x > __pycache__/a.pyc; mkfifo pipe"
    policy = PatchPolicy(exclude=("notes.md",), max_file_mb=0.1)
    more = "echo y > notes.md; echo z > new.py; head -c 200000 /dev/zero > big"
    solved = run(tmp_path, EDIT, {"run": left}, {"run": more}, policy=policy)
    journal = json.loads(solved.record.to_json())
    assert journal["patch"]["files"] == ["a.py", "new.py"]
    assert sorted(journal["excluded"]) == [
        "__pycache__/a.pyc: ignored by the patch policy (__pycache__/)",
        "big: 0.2 MB, more than 0.1 MB",
        "debug.log: ignored by .gitignore:1 (*.log)",
        "notes.md: ignored by the patch policy (notes.md)",
        "pipe: not a regular file",
    ]
    plain = run(tmp_path / "plain", EDIT, {"run": more})  # the control: it was the policy
    assert plain.record.patch.files == ("a.py", "big", "new.py", "notes.md")
    assert plain.record.excluded == ()


def test_an_agent_whose_whole_change_was_left_out_has_no_patch_and_the_record_says_why(tmp_path):
    solved = run(tmp_path, {"run": "echo x > debug.log"})
    assert (solved.record.outcome, solved.record.patch) == (Outcome.NO_PATCH, None)
    assert solved.record.outcome_detail == "all that changed was left out of the patch"
    assert solved.record.excluded == ("debug.log: ignored by .gitignore:1 (*.log)",)


def test_python_leaves_no_bytecode_that_could_outlive_an_edit(tmp_path):
    base = {"a.py": "value = 1\n"}
    program = "python3 -c 'import a'; find . -name '*.pyc'; echo looked"
    solved = run(tmp_path / "ours", {"run": program}, base=base)
    assert solved.text("stdout.log") == "looked\n"
    without = program.replace("python3", "env -u PYTHONDONTWRITEBYTECODE python3")
    control = run(tmp_path / "control", {"run": without}, base=base)
    assert control.text("stdout.log").startswith("./__pycache__/a.")


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


# How the workspace is made


def open_workspace_node(folder: Path, kind: str, sandbox: str) -> Node:
    """A worker's node whose workspaces are made as the experiment says."""
    return open_node(
        EnvironmentSpec(),
        SandboxPolicy.model_validate({"kind": sandbox}),
        Limits(),
        folder,
        workspace=WorkspaceSettings.model_validate({"kind": kind}),
    )


def require_overlay(folder: Path) -> Node:
    """A node with overlays; skips the test, loudly, where none can be mounted."""
    require_bubblewrap()
    try:
        return open_workspace_node(folder, "overlay", "bubblewrap")
    except FailureRaised as error:
        if error.failure.failure_class is not FailureClass.OVERLAY_UNAVAILABLE:
            raise
        pytest.skip(f"NO OVERLAYS ON THIS MACHINE, they are untested here: {error}")


@pytest.mark.parametrize("kind", ["nop", "oracle"])
def test_a_prepared_agent_has_no_workspace(tmp_path, kind):
    assert run(tmp_path, kind=kind).record.workspace_kind is None


@pytest.mark.parametrize("kind", ["auto", "copy"])
def test_without_a_sandbox_a_workspace_is_a_copy(tmp_path, kind):
    node = open_workspace_node(tmp_path / "node", kind, "none")
    solved = run(tmp_path, EDIT, node=node)
    assert json.loads(solved.record.to_json())["workspace_kind"] == "copy"
    assert [p.name for p in node.scratch.glob("layer-*")] == []


def test_an_overlay_without_a_sandbox_that_hides_its_lower_layer_is_refused(tmp_path):
    with pytest.raises(FailureRaised) as raised:
        open_workspace_node(tmp_path / "node", "overlay", "none")
    assert raised.value.failure.failure_class is FailureClass.OVERLAY_UNAVAILABLE
    assert "nothing would hide its lower layer" in raised.value.failure.message


@pytest.mark.sandbox
@pytest.mark.parametrize("kind", ["auto", "copy"])
def test_in_the_sandbox_a_workspace_is_what_the_node_can_and_the_experiment_allows(tmp_path, kind):
    require_bubblewrap()
    node = open_workspace_node(tmp_path / "node", kind, "bubblewrap")
    solved = run(tmp_path, EDIT, {"run": "git status --porcelain; pwd"}, node=node)
    assert solved.record.workspace_kind == node.workspace_kind
    assert solved.record.workspace_kind in (("copy",) if kind == "copy" else ("copy", "overlay"))
    assert solved.text("stdout.log") == " M a.py\n/workspace\n"


@pytest.mark.sandbox
def test_the_layer_of_a_base_serves_its_next_trial_and_goes_with_the_next_base(tmp_path):
    node = require_overlay(tmp_path / "node")
    break_it = {"run": "echo spoilt > a.py; rm .gitignore; echo new > new.py; git add --all"}
    first = run(tmp_path / "first", break_it, node=node)
    (layer,) = node.scratch.glob("layer-*")
    assert layer.name == f"layer-{first.record.base_tree}"
    inode = layer.stat().st_ino
    look = {"run": "git status --porcelain --ignored; git stash list; cat a.py; ls -A"}
    second = run(tmp_path / "second", look, node=node)
    assert second.record.workspace_kind == first.record.workspace_kind == "overlay"
    assert [p.stat().st_ino for p in node.scratch.glob("layer-*")] == [inode]
    assert second.text("stdout.log") == BASE["a.py"] + ".git\n.gitignore\na.py\nfirst.txt\n"
    assert first.record.patch.files == (".gitignore", "a.py", "new.py")
    assert second.record.patch is None
    other = run(tmp_path / "other", {"run": "cat a.py"}, base={"a.py": "other\n"}, node=node)
    assert other.text("stdout.log") == "other\n"
    (layer,) = node.scratch.glob("layer-*")
    assert layer.name == f"layer-{other.record.base_tree}"
    assert other.record.base_tree != first.record.base_tree
    assert mounts_below(node.scratch) == []
