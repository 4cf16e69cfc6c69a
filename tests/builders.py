"""Small builders of records, for tests that ask what follows from them.

Each makes a whole, valid record from the few facts that a test is about; everything else is the
same harmless value every time. No disk, no git: ids of trees are hashes of their names.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from isobench_ray.agents import AGENTS
from isobench_ray.experiment import Experiment
from isobench_ray.experiment_file import LoadedExperiment
from isobench_ray.failure import Failure, FailureClass
from isobench_ray.lock import Lock, read_lock
from isobench_ray.planning import (
    PlannedTask,
    PlannedTrial,
    ResolvedExperiment,
    admission_plan,
    measure_conditions,
    measure_plans,
    solve_identity,
)
from isobench_ray.prompt import render_prompt
from isobench_ray.repository import ResolvedTask, open_repository
from isobench_ray.resolve import make_lock
from isobench_ray.results import Execution, Results, Snapshot, WorkKey
from isobench_ray.schema import sha256_hex
from isobench_ray.session import ArmResult, CheckResult, Sample, SessionPlan, SessionRecord
from isobench_ray.statistics import Contrast
from isobench_ray.store import LocalStore
from isobench_ray.task import Task, TaskFiles
from isobench_ray.trial import (
    ExecutionClaim,
    ExecutionEnd,
    Outcome,
    Patch,
    SandboxFacts,
    Trial,
    TrialRecord,
    UpstreamCommits,
    UpstreamMetrics,
    UpstreamTimestamps,
    Usage,
    WorkerFacts,
    upstream_status,
)
from isobench_ray.verdict import judge_scoreable

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SANDBOX = SandboxFacts(mechanism="bubblewrap", version="0.8.0", network="none")
WORKER = WorkerFacts(
    hostname="node-1", boot_id="boot-1", pid=4711, start_ticks=99, python="3.11.9", cpu="a CPU"
)
NOP = {"name": "nop", "kind": "nop"}
ORACLE = {"name": "oracle", "kind": "oracle"}
MARGIN = math.log1p(0.05)


def hex_id(name: str) -> str:
    """A made-up git id: 40 hexadecimal digits that depend on the name alone."""
    return hashlib.sha1(name.encode()).hexdigest()


def base_tree(task_id: str = "t1") -> str:
    return hex_id(f"{task_id} base tree")


def human_tree(task_id: str = "t1") -> str:
    return hex_id(f"{task_id} human tree")


def task_row(task_id: str = "t1", **changes: Any) -> dict[str, Any]:
    """A task as it stands in a task file."""
    row = {
        "task_id": task_id,
        "repository": "https://example.invalid/engine.git",
        "base_commit": hex_id(f"{task_id} base"),
        "human_commit": hex_id(f"{task_id} human"),
        "instruction": f"{task_id} is slow.",
        "workload": {
            "command": "python $ISOBENCH_TASK/bench.py",
            "metrics": {"latency_ms": {"better": "lower", "primary": True}},
        },
        "check": {"command": "python $ISOBENCH_TASK/check.py"},
    }
    return row | changes


def experiment(**changes: Any) -> Experiment:
    row = {"name": "exp", "tasks": {"from": "tasks.jsonl"}, "agents": [NOP, ORACLE]}
    return Experiment.model_validate(row | changes)


def resolved_experiment(
    *rows: dict[str, Any], blocked: Iterable[str] = (), files: bytes = b"", **changes: Any
) -> ResolvedExperiment:
    """An experiment over tasks whose repositories are made up; `blocked` ones have no commits."""
    exp = experiment(**changes)
    loaded = LoadedExperiment(experiment=exp, path=Path("/nowhere/exp.yaml"), text="name: exp\n")
    tasks = {}
    for row in rows or (task_row(),):
        task = Task.model_validate(row)
        tasks[task.task_id] = _planned_task(task, exp, files, task.task_id in blocked)
    trials = {}
    for spec in exp.agents:
        for planned in tasks.values():
            for trial in _planned_trials(exp, spec, planned):
                trials[trial.trial.trial_id] = trial
    return ResolvedExperiment(loaded, tasks, trials)


def _planned_task(task: Task, exp: Experiment, files: bytes, blocked: bool) -> PlannedTask:
    repository = open_repository(task.repository, None, Path("/nowhere"))
    bundle = TaskFiles(files={"bench.py": files} if files else {})
    if blocked:
        failure = Failure(failure_class=FailureClass.COMMIT_UNKNOWN, message="no such commit")
        return PlannedTask(task, bundle, repository, None, failure, None)
    trees = base_tree(task.task_id), human_tree(task.task_id)
    resolved = ResolvedTask(task.base_commit, task.human_commit, *trees, b"human's diff\n")
    conditions = measure_conditions(task, bundle, resolved, exp)
    return PlannedTask(task, bundle, repository, resolved, None, conditions)


def _planned_trials(exp: Experiment, spec: Any, planned: PlannedTask) -> list[PlannedTrial]:
    task, wall_s = planned.task, exp.limits.agent_working_s
    prompt = render_prompt(task, wall_s)
    agent = AGENTS[spec.kind].load(spec, task, b"human's diff\n", lambda name: name.encode())
    identity = None
    if planned.resolved is not None:
        tree, prompt_hash = planned.resolved.base_tree, sha256_hex(prompt.encode())
        version = AGENTS[spec.kind].version
        identity = solve_identity(exp, spec, version, agent, tree, prompt_hash, wall_s)
    return [
        PlannedTrial(
            Trial(task_id=task.task_id, agent=spec.name, attempt=k, solve_identity=identity),
            spec,
            agent if planned.resolved else None,
            prompt,
            wall_s,
        )
        for k in range(1, exp.attempts + 1)
    ]


def scripted(*names: str) -> list[dict[str, Any]]:
    """Agents of kind scripted, each with a step of its own."""
    return [{"name": n, "kind": "scripted", "steps": [{"run": f"echo {n}"}]} for n in names]


def patch(tree: str | None, task_id: str = "t1", **changes: Any) -> Patch:
    """A patch with a resulting tree; None: it does not apply."""
    error = "error: patch does not apply" if tree is None else None
    facts = {
        "sha256": sha256_hex(str(tree).encode()),
        "size_bytes": 120,
        "base_tree": base_tree(task_id),
        "tree": tree,
        "apply_error": error,
        "files": ("engine.py",),
        "lines_added": 3,
        "lines_removed": 1,
    }
    return Patch(**(facts | changes))


def journal(trial_id: str, yielded: Patch | None = None, **changes: Any) -> TrialRecord:
    """The record of a trial with an outcome, from its id `task/agent/attempt-k`."""
    task_id, agent, attempt = trial_id.split("/")
    outcome = changes.pop("outcome", Outcome.PATCH if yielded else Outcome.NO_PATCH)
    facts = {
        "task_id": task_id,
        "agent": agent,
        "agent_kind": agent if agent in AGENTS else "scripted",
        "agent_version": "1",
        "attempt": int(attempt.removeprefix("attempt-")),
        "execution": 1,
        "solve_identity": "0" * 64,
        "outcome": outcome,
        "patch": yielded,
        "base_commit": hex_id(f"{task_id} base"),
        "base_tree": base_tree(task_id),
        "human_commit": hex_id(f"{task_id} human"),
        "prompt_sha256": "1" * 64,
        "usage": Usage(steps=2, cost_usd=0.25),
        "exit_code": 0,
        "sandbox": SANDBOX,
        "worker": WORKER,
        "started_at": NOON,
        "ended_at": NOON + timedelta(seconds=30),
        "agent_s": 20.0,
        "workspace_s": 1.0,
        "extract_s": 0.5,
        "artifacts": (),
        "status": upstream_status(outcome),
        "commits": UpstreamCommits(pre=hex_id("pre"), human=hex_id("human")),
        "metrics": UpstreamMetrics(changed_files_count=1 if yielded else 0),
        "timestamps": UpstreamTimestamps(written=1.0),
    }
    return TrialRecord(**(facts | changes))


def contrast(low: float, high: float, n_blocks: int = 11) -> Contrast:
    """A contrast whose 95 % interval is [low, high] in logarithms."""
    return Contrast(
        n_blocks=n_blocks, mean=(low + high) / 2, sd=0.03, low=low, high=high,
        n_pilot=n_blocks, sd_pilot=0.03,
    )  # fmt: skip


def around(log_ratio: float, half: float = 0.01) -> Contrast:
    """A contrast whose interval is log_ratio +- half."""
    return contrast(log_ratio - half, log_ratio + half)


def arm_result(
    name: str, tree: str, gain: float = 0.0, human_gain: float = math.log(2), **changes: Any
) -> ArmResult:
    """What a session says of an arm whose true log-gain over base is `gain`, tightly measured."""
    facts: dict[str, Any] = {"name": name, "tree": tree, "trials": (), "correct": True}
    if changes.get("correct", True):
        facts |= {
            "vs_base": None if name == "base" else around(gain),
            "vs_human": None if name == "human" else around(gain - human_gain),
            "vs_half_human": None if name == "human" else around(gain - human_gain / 2),
            "median": 100 * math.exp(-gain),
            "mean": 100 * math.exp(-gain),
        }
    return ArmResult(**(facts | changes))


def session_record(
    plan: SessionPlan,
    gains: dict[str, float | None] | None = None,
    human_gain: float = math.log(2),
    minute: int = 0,
    **changes: Any,
) -> SessionRecord:
    """A completed session of a plan; log-gain over base by arm name, None for a broken arm."""
    gains = {"base": 0.0, "base2": 0.0, "human": human_gain} | (gains or {})
    arms = [_planned_arm(arm, gains.get(arm.name, 0.0), human_gain) for arm in plan.arms]
    human = next(arm for arm in arms if arm.name == "human")
    scoreable = None
    if plan.kind == "admission" and human.vs_base is not None:
        scoreable = judge_scoreable(human.vs_base, 0.05)
    samples = tuple(
        Sample(block=block, arm=arm.name, position=place, metric="latency_ms",
               value=(arm.median or 1.0) + block, n_passes=1, outside_s=1.5)
        for block in range(3)
        for place, arm in enumerate(arms)
    )  # fmt: skip
    facts = plan.model_dump(exclude={"arms"}) | {
        "execution": 1,
        "margin_ratio": 0.05,
        "metric": "latency_ms",
        "better": "lower",
        "n_blocks": 3,
        "arms": tuple(arms),
        "scoreable": scoreable,
        "checks": tuple(CheckResult(arm=a.name, passed=True, duration_s=0.5) for a in arms),
        "samples": samples,
        "sandbox": SANDBOX,
        "worker": WORKER,
        "environment_python": "3.11.9",
        "started_at": NOON + timedelta(minutes=minute),
        "ended_at": NOON + timedelta(minutes=minute, seconds=59),
        "duration_s": 59.0,
    }
    return SessionRecord(**(facts | changes))


def _planned_arm(arm: Any, gain: float | None, human_gain: float) -> ArmResult:
    if gain is None:
        reason = "the check ended with status 1: wrong answer"
        return ArmResult(
            name=arm.name, tree=arm.tree, trials=arm.trials, correct=False, incorrect_reason=reason
        )
    return arm_result(arm.name, arm.tree, gain, human_gain, trials=arm.trials)


def admission(planned: PlannedTask, human_gain: float = math.log(2), **changes: Any) -> Any:
    """The completed admission of a task."""
    plan = admission_plan(planned)
    assert plan is not None
    return session_record(plan, human_gain=human_gain, **changes)


def sessions_of(
    planned: PlannedTask, journals: Iterable[TrialRecord], **changes: Any
) -> list[SessionRecord]:
    """The completed sessions that a plan over these journals asks for."""
    plans = measure_plans(planned, journals, snapshot())
    return [session_record(plan, **changes) for plan in plans]


def execution(
    key: WorkKey, number: int = 1, failure: FailureClass | None = None, *,
    outcome: Outcome | None = None, ended: bool = True, epoch: int = 1, identity: str = "0" * 64,
) -> Execution:  # fmt: skip
    """An execution: failed, with an outcome, ended without either (superseded), or not ended."""
    claim = ExecutionClaim(
        work=key.work, work_id=key.work_id, execution=number, epoch=epoch, identity=identity,
        worker=WORKER, claimed_at=NOON,
    )  # fmt: skip
    end = None
    if ended:
        why = Failure(failure_class=failure, message=f"it was {failure}") if failure else None
        late = NOON + timedelta(seconds=10)
        end = ExecutionEnd(outcome=outcome, failure=why, ended_at=late, duration_s=10.0)
    return Execution(key, number, claim, end)


def snapshot(
    journals: Iterable[TrialRecord] = (),
    sessions: Iterable[SessionRecord] = (),
    admissions: Iterable[SessionRecord] = (),
    executions: Iterable[Execution] = (),
) -> Snapshot:
    by_work = sorted(executions, key=lambda e: (e.key, e.number))
    return Snapshot(
        {record.trial_id: record for record in journals}, list(sessions), list(admissions), by_work
    )


def lock(resolved: ResolvedExperiment) -> Lock:
    return make_lock(resolved, None, Snapshot({}, [], [], []))


def stored(folder: Path, resolved: ResolvedExperiment, what: Snapshot) -> Results:
    """Results in a folder that hold an experiment's lock and the records of a snapshot."""
    results = Results(LocalStore(folder))
    results.store.put("lock.json", lock(resolved).to_json())
    for record in what.journals.values():
        results.store.put(WorkKey("trial", record.trial_id).record, record.to_json())
    for record in (*what.sessions, *what.admissions):
        work = "admission" if record.kind == "admission" else "session"
        key = WorkKey(work, f"{record.task_id}/{record.session_id}")
        results.store.put(key.record, record.to_json())
    for e in what.executions:
        results.store.put(f"{e.key.execution(e.number)}claim.json", e.claim.to_json())
        if e.end is not None:
            results.store.put(f"{e.key.execution(e.number)}end.json", e.end.to_json())
    return results


class Scenario(NamedTuple):
    """Results with every kind of ending; see `scenario`."""

    resolved: ResolvedExperiment
    lock: Lock
    snapshot: Snapshot
    results: Results


def scenario(folder: Path) -> Scenario:
    """Three tasks (good; human without gain; unknown commit) x five agents, 15 planned trials.

    | task | nop      | oracle     | fast  | wrong              | stale              |
    | t1   | no_patch | human tree | beats | incorrect          | does not apply     |
    | t2   | no_patch | human tree | patch | disk_full, twice   | lost with its node |
    | t3   | commit_unknown, all five                                                |
    """
    resolved = resolved_experiment(
        task_row("t1", tags=["a", "b"]), task_row("t2"), task_row("t3"), blocked=["t3"],
        agents=[NOP, ORACLE, *scripted("fast", "wrong", "stale")],
    )  # fmt: skip
    fast = {t: hex_id(f"{t} fast") for t in ("t1", "t2")}
    wrong = hex_id("t1 wrong")
    journals = [
        *(journal(f"{t}/nop/attempt-1") for t in ("t1", "t2")),
        *(journal(f"{t}/oracle/attempt-1", patch(human_tree(t), t)) for t in ("t1", "t2")),
        *(journal(f"{t}/fast/attempt-1", patch(tree, t)) for t, tree in fast.items()),
        journal("t1/wrong/attempt-1", patch(wrong, "t1"), outcome=Outcome.TIMEOUT),
        journal("t1/stale/attempt-1", patch(None, "t1")),
    ]
    gains = {f"tree-{fast['t1'][:12]}": math.log(3), f"tree-{wrong[:12]}": None}
    t1, t2 = resolved.tasks["t1"], resolved.tasks["t2"]
    of_t1, of_t2 = ([j for j in journals if j.task_id == t] for t in ("t1", "t2"))
    sessions = [
        *sessions_of(t1, of_t1, gains=gains, minute=2),
        *sessions_of(t2, of_t2, human_gain=0.0, minute=3),
    ]
    admissions = [admission(t1), admission(t2, human_gain=0.0, minute=1)]
    failing, lost = WorkKey("trial", "t2/wrong/attempt-1"), WorkKey("trial", "t2/stale/attempt-1")
    executions = [
        *(execution(WorkKey("trial", j.trial_id), outcome=j.outcome) for j in journals),
        *(execution(WorkKey("session", f"{r.task_id}/{r.session_id}")) for r in sessions),
        *(execution(WorkKey("admission", f"{r.task_id}/{r.session_id}")) for r in admissions),
        execution(failing, 1, FailureClass.WORKER_DIED),
        execution(failing, 2, FailureClass.DISK_FULL),
        execution(lost, ended=False),
    ]
    what = snapshot(journals, sessions, admissions, executions)
    results = stored(folder, resolved, what)
    for sequence, event in enumerate(("worker_started", "leased", "ended")):
        row = {
            "epoch": 1, "sequence": sequence, "time": NOON.isoformat(), "event": event,
            "work": None, "work_id": None, "execution": None, "worker": "worker-1", "detail": None,
        }  # fmt: skip
        results.append_line("events/1.jsonl", row)
    locked = read_lock(results)
    assert locked is not None
    return Scenario(resolved, locked, what, results)
