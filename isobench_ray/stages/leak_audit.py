"""The leak audit: can an agent reach the human's commit, in any way that we know of?

A probe takes the agent's place in a real trial: same workspace, sandbox, mounts and variables
(runners/leak_probe.py lists what it tries). It is asked in the worst case: just before, on the same
worker, an agent worked on the human's own tree and left as much as it could. Then the human's diff
is replayed as an agent's edit, and the patch that is taken must give the human's tree.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from isobench_ray.agents import AgentInput
from isobench_ray.agents.leak_audit import QUESTIONS
from isobench_ray.base import GITLINK, Base
from isobench_ray.experiment import PatchPolicy
from isobench_ray.failure import FailureClass, fail
from isobench_ray.process import tail
from isobench_ray.repository import Repository, ResolvedTask
from isobench_ray.schema import RecordModel
from isobench_ray.stages.installed import other_builds
from isobench_ray.stages.node import Node, clear_scratch
from isobench_ray.stages.solve import SolveWork, run_agent, solve
from isobench_ray.task import Task, TaskFiles
from isobench_ray.trial import Outcome, Trial
from isobench_ray.workspace import open_workspace

AUDIT_WALL_S = 600.0
_LEAVINGS = """\
set -e
echo note >> isobench-note; git add --force isobench-note; git commit -qm 'what I did'
git branch backup; git tag kept; echo more >> isobench-note; git stash -q; git stash apply -q
mkdir -p "$HOME/.cache" build; cp -a .git "$HOME/.cache/git"; cp -a . "$TMPDIR/tree"
test "$(git stash list)" && test -d "$TMPDIR/tree/.git"
"""
"""What the agent before does: everything that could be found by the next one."""


class Way(RecordModel):
    """One way to the answer."""

    way: str
    """Its name."""
    found: tuple[str, ...]
    """What was found; empty if it is closed."""


class LeakReport(RecordModel):
    """What the audit of one task gave."""

    task_id: str
    """The task."""
    sandbox: str
    """Mechanism of the sandbox."""
    workspace_kind: str
    """How the workspace was made."""
    ways: tuple[Way, ...]
    """All ways that were tried."""
    human_tree: str
    """Git's tree of the human's commit."""
    replayed_tree: str | None
    """Tree of the patch that was taken after the human's diff was replayed as an agent's edit."""

    @property
    def leaks(self) -> list[Way]:
        """The ways that are open."""
        return [way for way in self.ways if way.found]

    @property
    def is_clean(self) -> bool:
        """Whether no way is open and the replay gave the human's tree."""
        return not self.leaks and self.is_replayed

    @property
    def is_replayed(self) -> bool:
        """Whether taking the human's diff as an agent's patch gives the human's tree."""
        return self.replayed_tree == self.human_tree


class AuditedTask(NamedTuple):
    """A task, and all that the driver knows of it."""

    task: Task
    files: TaskFiles
    repository: Repository
    resolved: ResolvedTask


def audit_workspace(audited: AuditedTask, node: Node, policy: PatchPolicy) -> LeakReport:
    """Audit the workspace of one task on this node, under the experiment's patch policy.

    Raises:
        FailureRaised: the probe or another part failed.
    """
    repository, resolved = audited.repository, audited.resolved
    base, human = (repository.bake(tree) for tree in (resolved.base_tree, resolved.human_tree))
    node.compared_bases.update((base.tree, human.tree))  # reported here as a way of its own
    before = _steps([{"run": _LEAVINGS}])
    work = _work(audited, "scripted", before, policy)
    left = solve(work, human, 1, node, clear_scratch(node, human))
    if left.outcome is not Outcome.PATCH:
        words = f"the agent before the audit ended as {left.outcome}, not with a patch"
        raise fail(FailureClass.HARNESS_ERROR, words, left.outcome_detail)
    artifacts = clear_scratch(node, base)
    questions = make_questions(audited, base, human, node)
    with open_workspace(base, node.scratch, node.workspace_kind) as workspace:
        ways = probe(audited, questions, workspace, node, artifacts)
    builds = tuple(other_builds(node, base, audited.task))
    installed = Way(way="installed packages", found=builds)
    return LeakReport(
        task_id=audited.task.task_id,
        sandbox=node.sandbox.facts.mechanism,
        workspace_kind=node.workspace_kind,
        ways=(*ways, installed),
        human_tree=resolved.human_tree,
        replayed_tree=_replay(audited, base, node, policy),
    )


def make_questions(audited: AuditedTask, base: Base, human: Base, node: Node) -> bytes:
    """The probe's input: what belongs to the workspace, and what must not be found."""
    resolved, repository = audited.resolved, audited.repository
    own = [base.commit, *repository.objects_of(base.tree)]
    inner = {entry.oid for entry in base.entries}
    files = {
        entry.oid: entry.size
        for entry in human.entries
        if entry.oid not in inner and entry.mode != GITLINK
    }
    hidden = [resolved.human_commit, *sorted(set(repository.objects_of(human.tree)) - set(own))]
    rooms = ("workspace", "scratch", "agent", "task")
    contained = node.sandbox.facts.mechanism == "bubblewrap"
    host = urlsplit(audited.task.repository).hostname
    return json.dumps(
        {
            "own_commit": base.commit,
            "own_objects": own,
            "hidden_objects": [*hidden, resolved.base_commit],
            "hidden_files": files,
            "words": [
                resolved.human_commit[:12],
                resolved.base_commit[:12],
                *repository.places,
            ],
            "hosts": [host] if host else [],
            "rooms": [f"/{room}" for room in rooms] if contained else [str(node.scratch)],
            "roots": ["/"],
        }
    ).encode()


def probe(
    audited: AuditedTask, questions: bytes, workspace: Path, node: Node, artifacts: Path
) -> tuple[Way, ...]:
    """Let the probe look around in a folder as an agent would.

    Raises:
        FailureRaised: harness_error, when it did not come to its end.
    """
    found = AgentInput(config={}, files={QUESTIONS: questions}, patch=None)
    run = run_agent(_work(audited, "leak_audit", found), workspace, node, artifacts)
    if run.process is None or run.process.exit_code != 0:
        words = tail(artifacts / "stderr.log")
        raise fail(FailureClass.HARNESS_ERROR, "the leak probe did not come to its end", words)
    rows = json.loads((artifacts / "trajectory.json").read_bytes())
    return tuple(Way.model_validate(row) for row in rows)


def _replay(audited: AuditedTask, base: Base, node: Node, policy: PatchPolicy) -> str | None:
    """The tree of the patch that is taken when an agent applies the human's diff."""
    replay = _steps([{"apply": "human.patch"}], {"human.patch": audited.resolved.human_diff})
    work = _work(audited, "scripted", replay, policy)
    record = solve(work, base, 1, node, clear_scratch(node, base))
    return record.patch.tree if record.patch else base.tree


def _steps(steps: list[dict[str, str]], files: dict[str, bytes] | None = None) -> AgentInput:
    script = {"steps.json": json.dumps(steps).encode()}
    return AgentInput(config={}, files=script | (files or {}), patch=None)


def _work(
    audited: AuditedTask, kind: str, agent: AgentInput, policy: PatchPolicy | None = None
) -> SolveWork:
    return SolveWork(
        trial=Trial(task_id=audited.task.task_id, agent="audit", attempt=1),
        task=audited.task,
        task_files=audited.files,
        agent_kind=kind,
        agent=agent,
        prompt="",
        agent_wall_s=AUDIT_WALL_S,
        concurrency=1,
        patch_policy=policy or PatchPolicy(),
    )
