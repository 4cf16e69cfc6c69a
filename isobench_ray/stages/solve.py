"""The solve stage: workspace, agent, patch, record. What becomes of one trial.

The patch is always taken by the harness, however the agent ended; an agent that fails, stops late
or breaks its own git still leaves a patch if it changed the files.
"""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from isobench_ray.agents import AGENTS, Account, AgentInput, AgentPaths
from isobench_ray.base import Base
from isobench_ray.experiment import PatchPolicy
from isobench_ray.extraction import extract
from isobench_ray.patches import Extraction, describe_patch
from isobench_ray.path_rules import matching
from isobench_ray.process import ProcessResult, run_process
from isobench_ray.runners import __file__ as runners_file
from isobench_ray.sandbox import ContainedCommand, Mount, read_untrusted
from isobench_ray.schema import sha256_hex, utc_now
from isobench_ray.stages.installed import refuse_other_builds
from isobench_ray.stages.node import Node, write_files
from isobench_ray.task import Task, TaskFiles
from isobench_ray.trial import (
    Outcome,
    Patch,
    Trial,
    TrialRecord,
    UpstreamCommits,
    UpstreamMetrics,
    UpstreamTimestamps,
    upstream_status,
)
from isobench_ray.workspace import open_harness, open_workspace

LEFT_LIMIT_BYTES = 256_000_000
"""Most that is read of a trajectory or of a patch that an agent hands in."""


class SolveWork(NamedTuple):
    """All that one trial needs."""

    trial: Trial
    task: Task
    task_files: TaskFiles
    agent_kind: str
    agent: AgentInput
    prompt: str
    agent_wall_s: float
    """Seconds that the agent may take, on the clock."""
    concurrency: int
    patch_policy: PatchPolicy = PatchPolicy()


class AgentRun(NamedTuple):
    """How the agent's program went; all None for a prepared agent."""

    process: ProcessResult | None
    submission: bytes | None


def solve(work: SolveWork, base: Base, execution: int, node: Node, artifacts: Path) -> TrialRecord:
    """Run one trial; leaves its files in `artifacts` and returns the record without their hashes.

    Raises:
        FailureRaised: something failed that says nothing about the agent.
    """
    started_at, start = utc_now(), time.monotonic()
    (artifacts / "prompt.md").write_text(work.prompt)
    harness = open_harness(base, node.scratch / "harness.git")
    if work.agent.patch is not None:
        run, workspace_s, extract_start = AgentRun(None, None), 0.0, time.monotonic()
        extraction = describe_patch(harness, base.tree, work.agent.patch)
    else:
        refuse_other_builds(node, base, work.task)
        with open_workspace(base, node.scratch, node.workspace_kind) as workspace:
            workspace_s = time.monotonic() - start
            run = run_agent(work, workspace, node, artifacts)
            extract_start = time.monotonic()
            if run.submission is not None:
                extraction = describe_patch(harness, base.tree, run.submission, work.patch_policy)
            else:
                extraction = extract(base, workspace, harness, work.patch_policy)
    extract_s = time.monotonic() - extract_start
    account = AGENTS[work.agent_kind].read_account(artifacts)
    record = _record(
        work, base, node, run, extraction, account, execution=execution, started_at=started_at,
        workspace_s=workspace_s, extract_s=extract_s,
    )  # fmt: skip
    _write_artifacts(artifacts, record, extraction, account)
    return record


def run_agent(work: SolveWork, workspace: Path, node: Node, artifacts: Path) -> AgentRun:
    """Run the agent's program in the sandbox, within its limit."""
    room = _Room.make(work, workspace, node)
    contained = room.contain(work, node)
    process = run_process(
        contained.argv,
        cwd=contained.cwd,
        env=contained.env,
        stdout=artifacts / "stdout.log",
        stderr=artifacts / "stderr.log",
        timeout_s=work.agent_wall_s,
        output_limit_bytes=node.output_limit_bytes,
        ledger=node.ledger,
    )
    trajectory = read_untrusted(room.scratch.host / "trajectory.json", LEFT_LIMIT_BYTES)
    if trajectory is not None:
        (artifacts / "trajectory.json").write_bytes(trajectory)
    return AgentRun(process, read_untrusted(room.submission, LEFT_LIMIT_BYTES))


class _Room(NamedTuple):
    """The folders that an agent's program gets."""

    workspace: Mount
    scratch: Mount
    files: Mount
    harness: Mount
    task: Mount

    @classmethod
    def make(cls, work: SolveWork, workspace: Path, node: Node) -> _Room:
        scratch = write_files(node.scratch / "agent", {"prompt.md": work.prompt.encode()})
        for name in ("home", "tmp"):
            (scratch / name).mkdir()
        return cls(
            workspace=Mount(workspace, "/workspace", writable=True),
            scratch=Mount(scratch, "/scratch", writable=True),
            files=Mount(write_files(node.scratch / "agent-files", work.agent.files), "/agent"),
            harness=Mount(Path(runners_file).parent, "/harness"),
            task=Mount(write_files(node.scratch / "task", work.task_files.visible_files), "/task"),
        )

    @property
    def submission(self) -> Path:
        return self.scratch.host / "submission.diff"

    def contain(self, work: SolveWork, node: Node) -> ContainedCommand:
        place = node.sandbox.path
        scratch = place(self.scratch)
        paths = AgentPaths(
            python=node.environment.python,
            workspace=place(self.workspace),
            files=place(self.files),
            harness=place(self.harness),
            prompt=f"{scratch}/prompt.md",
            trajectory=f"{scratch}/trajectory.json",
            submission=f"{scratch}/submission.diff",
        )
        argv = AGENTS[work.agent_kind].command(paths)
        assert argv is not None, "an agent without a patch has a program"
        variables = node.environment.variables(f"{scratch}/home", f"{scratch}/tmp") | {
            "ISOBENCH_TASK": place(self.task),
            "ISOBENCH_DEADLINE_S": f"{work.agent_wall_s:g}",
            "GIT_CEILING_DIRECTORIES": str(Path(paths.workspace).parent),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return node.sandbox.contain(argv, list(self), self.workspace, variables)


def judge_outcome(
    run: AgentRun, extraction: Extraction, wall_s: float
) -> tuple[Outcome, str | None]:
    """The outcome of a trial, and a sentence more."""
    if run.process is not None and run.process.timed_out:
        return Outcome.TIMEOUT, f"stopped at its limit of {wall_s:g} s"
    if run.process is not None and run.process.exit_code != 0:
        return Outcome.AGENT_ERROR, f"ended with status {run.process.exit_code}"
    if not _is_empty(extraction.patch):
        return Outcome.PATCH, None
    left_out = "all that changed was left out of the patch"
    return Outcome.NO_PATCH, left_out if extraction.excluded else None


def _record(
    work: SolveWork,
    base: Base,
    node: Node,
    run: AgentRun,
    extraction: Extraction,
    account: Account,
    *,
    execution: int,
    started_at: datetime,
    workspace_s: float,
    extract_s: float,
) -> TrialRecord:
    patch, ended_at = extraction.patch, utc_now()
    outcome, detail = judge_outcome(run, extraction, work.agent_wall_s)
    changed = (
        None
        if patch.lines_added is None or patch.lines_removed is None
        else (patch.lines_added + patch.lines_removed)
    )
    return TrialRecord(
        task_id=work.trial.task_id,
        agent=work.trial.agent,
        agent_kind=work.agent_kind,
        agent_version=AGENTS[work.agent_kind].version,
        attempt=work.trial.attempt,
        execution=execution,
        solve_identity=work.trial.solve_identity or "",
        outcome=outcome,
        outcome_detail=detail,
        patch=None if _is_empty(patch) else patch,
        base_commit=work.task.base_commit,
        base_tree=base.tree,
        human_commit=work.task.human_commit,
        prompt_sha256=sha256_hex(work.prompt.encode()),
        usage=account.usage,
        exit_code=run.process.exit_code if run.process else None,
        output_truncated=run.process.truncated if run.process else False,
        sandbox=node.sandbox.facts,
        worker=node.facts,
        excluded=extraction.excluded,
        workspace_kind=node.workspace_kind if run.process else None,
        concurrency=work.concurrency,
        started_at=started_at,
        ended_at=ended_at,
        agent_s=run.process.duration_s if run.process else 0.0,
        workspace_s=workspace_s,
        extract_s=extract_s,
        artifacts=(),
        status=upstream_status(outcome),
        commits=UpstreamCommits(pre=work.task.base_commit, human=work.task.human_commit),
        metrics=UpstreamMetrics(
            patch_size_loc=changed,
            changed_files_count=len(patch.files) if patch.tree else None,
            violations_count=_off_target(work.task, patch),
        ),
        timestamps=UpstreamTimestamps(written=ended_at.timestamp()),
    )


def _write_artifacts(
    artifacts: Path, record: TrialRecord, extraction: Extraction, account: Account
) -> None:
    (artifacts / "model_patch.diff").write_bytes(extraction.text)
    if not (artifacts / "trajectory.json").exists():
        (artifacts / "trajectory.json").write_text("[]\n")
    steps = "".join(step.model_dump_json() + "\n" for step in account.steps)
    (artifacts / "steps.jsonl").write_text(steps)
    summary = json.dumps(run_summary(record), indent=2)
    (artifacts / "run_summary.json").write_text(summary + "\n")


def run_summary(record: TrialRecord) -> dict[str, object]:
    """run_summary.json in the form that ISO-Bench's readers know (its schema_version 1.0)."""
    patch = record.patch
    return {
        "schema_version": "1.0",
        "meta": {
            "repo": None,
            "agent": record.agent,
            "model": record.model_requested,
            "model_full": record.model_served,
            "timestamp": record.started_at.strftime("%Y-%m-%d_%H-%M-%S"),
            "task_id": record.task_id,
            "item_id": record.trial_id,
        },
        "commits": {"human": record.human_commit, "pre": record.base_commit},
        "agent": {
            "status": record.status,
            "patch_generated": patch is not None,
            "patch_stats": {
                "lines_added": patch.lines_added if patch else 0,
                "lines_removed": patch.lines_removed if patch else 0,
                "files_changed": len(patch.files) if patch else 0,
            },
            "duration_s": record.agent_s,
            "time_to_first_edit_s": record.metrics.time_to_first_edit_s,
        },
        "_sources": {
            "journal": "journal.json",
            "trajectory": "trajectory.json",
            "prediction": None,
            "patch": "model_patch.diff",
        },
    }


def _off_target(task: Task, patch: Patch) -> int | None:
    """Changed files that the task's target_files do not name; None where it names none."""
    if not task.target_files or patch.tree is None:
        return None
    return len(set(patch.files) - matching(task.target_files, patch.files))


def _is_empty(patch: Patch) -> bool:
    return patch.tree == patch.base_tree
