"""The plan: which trials and sessions an experiment has, and which of them Results still lack.

Pure functions over models; what they need of repositories and files is in `ResolvedExperiment`,
which `resolve.py` makes.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from isobench_ray.agents import AgentInput
from isobench_ray.errors import UserError
from isobench_ray.experiment import AgentSpec, Experiment, Limits, PatchPolicy
from isobench_ray.experiment_file import LoadedExperiment
from isobench_ray.failure import MAX_EXECUTIONS_PER_RUN, Failure, Retry
from isobench_ray.repository import Repository, ResolvedTask
from isobench_ray.results import Execution, Snapshot, Work, WorkKey
from isobench_ray.schema import identity_hash
from isobench_ray.session import (
    BASE,
    BASE2,
    CONTROLS,
    HUMAN,
    MAX_ARMS,
    ArmPlan,
    SessionPlan,
    arm_name,
    session_plan,
)
from isobench_ray.task import Task, TaskFiles
from isobench_ray.trial import Trial, TrialRecord
from isobench_ray.verdict import unmeasured_validity


class PlannedTask(NamedTuple):
    """A task, what its repository says of it, or why that cannot be had."""

    task: Task
    files: TaskFiles
    repository: Repository
    resolved: ResolvedTask | None
    failure: Failure | None
    conditions: str | None
    """Hash of all that a session of this task is measured under, but the set of trees."""


class PlannedTrial(NamedTuple):
    """A trial and what its agent needs; `agent` is None where the task cannot be resolved."""

    trial: Trial
    spec: AgentSpec
    agent: AgentInput | None
    prompt: str
    agent_wall_s: float


class ResolvedExperiment(NamedTuple):
    """An experiment with everything known that a plan needs."""

    loaded: LoadedExperiment
    tasks: dict[str, PlannedTask]
    trials: dict[str, PlannedTrial]


class RunOptions(NamedTuple):
    """What one invocation of `run` is asked to do."""

    stages: tuple[str, ...] = ("solve", "measure")
    only: tuple[str, ...] = ()
    """Task ids or trial ids; empty: all."""
    limit: int | None = None
    """At most so many tasks."""
    retry_failures: bool = False


def measure_conditions(
    task: Task, files: TaskFiles, resolved: ResolvedTask, experiment: Experiment
) -> str:
    """Identity of everything that a session of a task is measured under, but the set of trees."""
    return identity_hash(
        {
            "task_id": task.task_id,
            "workload": task.workload.model_copy(update={"files": None}),
            "check": task.check.model_copy(update={"files": None}),
            "files": files.sha256,
            "environment": experiment.environment,
            "settings": experiment.measure,
            "limits": Limits(
                check_s=experiment.limits.check_s, workload_s=experiment.limits.workload_s
            ),
            "sandbox": experiment.sandbox,
            "base_tree": resolved.base_tree,
            "human_commit": task.human_commit,
            "human_tree": resolved.human_tree if resolved.filled else None,
        }
    )


def solve_identity(
    experiment: Experiment, spec: AgentSpec, version: str, agent: AgentInput, base_tree: str,
    prompt_sha256: str, agent_wall_s: float, visible_sha256: str | None = None,
) -> str:  # fmt: skip
    """Identity of everything that can change what an agent does in a trial."""
    return identity_hash(
        {
            "base_tree": base_tree,
            "prompt": prompt_sha256,
            "agent": {"kind": spec.kind, "version": version, "config": agent.config},
            "model": spec.model,
            "sampling": spec.sampling,
            "max_steps": spec.max_steps,
            "agent_wall_s": agent_wall_s,
            "visible_files": visible_sha256,
            "sandbox": experiment.sandbox,
            "environment": experiment.environment,
            "patch": _unless_default(experiment.patch.model_copy(update={"enforce": ()})),
        }
    )


def _unless_default(policy: PatchPolicy) -> PatchPolicy | None:
    return None if policy == PatchPolicy() else policy


def admission_plan(planned: PlannedTask) -> SessionPlan | None:
    """The admission of a task; None if the task cannot be resolved."""
    if planned.resolved is None or planned.conditions is None:
        return None
    controls = _controls(planned.resolved)
    return session_plan("admission", planned.task.task_id, planned.conditions, controls)


def measure_plans(
    planned: PlannedTask, journals: Iterable[TrialRecord], snapshot: Snapshot
) -> list[SessionPlan]:
    """Sessions for the trees of a task that no completed session under its conditions holds."""
    if planned.resolved is None or planned.conditions is None:
        return []
    controls = _controls(planned.resolved)
    held = {
        arm.tree
        for session in snapshot.sessions
        if session.conditions == planned.conditions
        for arm in session.arms
        if arm.name not in CONTROLS or (arm.name == HUMAN and arm.trials)
    }
    trials = defaultdict(list)
    for journal in journals:
        if unmeasured_validity(journal.patch) is None and journal.patch is not None:
            trials[journal.patch.tree or ""].append(journal.trial_id)
    arms = [
        ArmPlan(
            name=HUMAN if tree == controls[HUMAN] else arm_name(tree),
            tree=tree,
            trials=tuple(sorted(trials[tree])),
        )
        for tree in sorted(trials)
        if tree not in held
    ]
    own = [arm for arm in arms if arm.name != HUMAN]
    human = [arm for arm in arms if arm.name == HUMAN]
    room = MAX_ARMS - len(CONTROLS)
    groups = [own[start : start + room] for start in range(0, len(own), room)] or [[]]
    groups[0] = human + groups[0]
    return [
        session_plan("measure", planned.task.task_id, planned.conditions, controls, tuple(group))
        for group in groups
        if group
    ]


def _controls(resolved: ResolvedTask) -> dict[str, str]:
    return {
        BASE: resolved.base_tree,
        BASE2: resolved.base_tree,
        HUMAN: resolved.human_tree,
    }


class WorkItem(NamedTuple):
    """One piece of work that can be leased, with its place in the order."""

    key: WorkKey
    stage: str
    """solve or measure."""
    task_id: str
    order: tuple[int, ...]
    plan: SessionPlan | None = None

    @property
    def label(self) -> str:
        """How people see it."""
        return self.key.work_id if self.stage == "solve" else f"{self.task_id} ({self.key.work})"


class Planner:
    """Says what is open, given what Results hold; `repeats` counts this run's own executions."""

    def __init__(self, resolved: ResolvedExperiment, options: RunOptions) -> None:
        self._resolved, self._options = resolved, options
        self._tasks = _chosen_tasks(resolved, options)
        self._order = {task_id: n for n, task_id in enumerate(self._tasks)}
        self._trial_order = _shuffled_trials(resolved)

    def open_work(self, snapshot: Snapshot, repeats: Counter[WorkKey]) -> list[WorkItem]:
        """All work that could be leased now, in order, running work included."""
        latest = latest_executions(snapshot.executions)
        items = []
        for task_id in self._tasks:
            trials = self._open_trials(task_id, snapshot, latest, repeats)
            if "solve" in self._options.stages:
                items += trials
            if "measure" in self._options.stages:
                barrier = bool(trials) and "solve" in self._options.stages
                items += self._open_sessions(task_id, snapshot, latest, repeats, barrier)
        return sorted(items, key=lambda item: item.order)

    def awaited_sessions(self, open_work: list[WorkItem]) -> int:
        """Sessions that cannot be planned yet: one per task whose trials or admission are open."""
        if "measure" not in self._options.stages:
            return 0
        known = {item.task_id for item in open_work if item.key.work == "session"}
        waiting = {item.task_id for item in open_work if item.key.work != "session"}
        return len(waiting - known)

    def chosen_trials(self) -> list[str]:
        """Ids of the trials that this invocation is about."""
        return [
            trial_id
            for trial_id, planned in self._resolved.trials.items()
            if planned.trial.task_id in self._order and self._is_chosen(trial_id)
        ]

    def _open_trials(
        self, task_id: str, snapshot: Snapshot, latest: dict[WorkKey, Execution],
        repeats: Counter[WorkKey],
    ) -> list[WorkItem]:  # fmt: skip
        items = []
        for trial_id, planned in self._resolved.trials.items():
            key = WorkKey("trial", trial_id)
            if planned.trial.task_id != task_id or planned.agent is None:
                continue
            if trial_id in snapshot.journals or not self._is_chosen(trial_id):
                continue
            if self._may_start(key, latest, repeats):
                order = (self._order[task_id], self._trial_order[trial_id])
                items.append(WorkItem(key, "solve", task_id, order))
        return items

    def _open_sessions(
        self, task_id: str, snapshot: Snapshot, latest: dict[WorkKey, Execution],
        repeats: Counter[WorkKey], barrier: bool,
    ) -> list[WorkItem]:  # fmt: skip
        planned = self._resolved.tasks[task_id]
        admission = admission_plan(planned)
        if admission is None:
            return []
        place = self._order[task_id]
        if snapshot.admission(admission) is None:
            key = session_key(admission)
            item = WorkItem(key, "measure", task_id, (place, 0), admission)
            return [item] if self._may_start(key, latest, repeats) else []
        if barrier:
            return []
        journals = [j for j in snapshot.journals.values() if j.task_id == task_id]
        sessions = measure_plans(planned, journals, snapshot)
        return [
            WorkItem(session_key(session), "measure", task_id, (place, number + 1), session)
            for number, session in enumerate(sessions)
            if self._may_start(session_key(session), latest, repeats)
        ]

    def _may_start(
        self, key: WorkKey, latest: dict[WorkKey, Execution], repeats: Counter[WorkKey]
    ) -> bool:
        """Whether the failure policy lets work start (again)."""
        last = latest.get(key)
        failure = last.end.failure if last and last.end else None
        if repeats[key]:
            if repeats[key] >= MAX_EXECUTIONS_PER_RUN:
                return False
            return failure is None or failure.policy.retry is Retry.NOW
        if failure is None or self._options.retry_failures:
            return True
        return failure.policy.retry is not Retry.NEVER

    def _is_chosen(self, trial_id: str) -> bool:
        only = self._options.only
        return not only or any(trial_id == o or trial_id.startswith(f"{o}/") for o in only)


def session_key(plan: SessionPlan) -> WorkKey:
    """Where a session or admission lies in Results."""
    work: Work = "admission" if plan.kind == "admission" else "session"
    return WorkKey(work, f"{plan.task_id}/{plan.session_id}")


def latest_executions(executions: Iterable[Execution]) -> dict[WorkKey, Execution]:
    """The execution with the highest number of each piece of work."""
    latest: dict[WorkKey, Execution] = {}
    for execution in executions:
        known = latest.get(execution.key)
        if known is None or known.number < execution.number:
            latest[execution.key] = execution
    return latest


def _chosen_tasks(resolved: ResolvedExperiment, options: RunOptions) -> list[str]:
    known = {*resolved.tasks, *resolved.trials}
    known |= {trial_id.rsplit("/", 1)[0] for trial_id in resolved.trials}
    unknown = [name for name in options.only if name not in known]
    if unknown:
        raise UserError(
            f"--only {unknown[0]}: no such task or trial; write TASK, TASK/AGENT or "
            "TASK/AGENT/attempt-K"
        )
    chosen = [
        task_id
        for task_id in resolved.tasks
        if not options.only or any(o.split("/")[0] == task_id for o in options.only)
    ]
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit {options.limit}: at least 1")
    return chosen[: options.limit]


def _shuffled_trials(resolved: ResolvedExperiment) -> dict[str, int]:
    """Within a task, agents and attempts in seeded random order: none has always the first turn."""
    ids = sorted(resolved.trials)
    random.Random(resolved.loaded.experiment.seed).shuffle(ids)
    return {trial_id: place for place, trial_id in enumerate(ids)}
