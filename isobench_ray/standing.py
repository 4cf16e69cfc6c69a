"""How things stand: the state of every planned trial, and the verdict that counts for each.

Pure functions of the lock (what was planned) and a snapshot of the records (what became of it).
"""

from __future__ import annotations

from typing import NamedTuple

from isobench_ray.failure import Failure
from isobench_ray.lock import Lock, LockedTask
from isobench_ray.planning import latest_executions
from isobench_ray.results import Execution, Snapshot, WorkKey
from isobench_ray.session import HUMAN, SessionRecord
from isobench_ray.trial import Trial, TrialRecord
from isobench_ray.verdict import (
    PathRules,
    Verdict,
    judge_trial,
    unmeasured_validity,
    with_path_rules,
)


class TrialState(NamedTuple):
    """What became of a planned trial so far."""

    trial: Trial
    journal: TrialRecord | None
    failure: Failure | None
    executions: tuple[Execution, ...]


def trial_states(lock: Lock, snapshot: Snapshot) -> list[TrialState]:
    """One state for each planned trial."""
    latest = latest_executions(snapshot.executions)
    by_key: dict[WorkKey, list[Execution]] = {}
    for execution in snapshot.executions:
        by_key.setdefault(execution.key, []).append(execution)
    blocked = {task.task_id: task.failure for task in lock.tasks}
    states = []
    for trial in lock.trials:
        key = WorkKey("trial", trial.trial_id)
        journal, last = snapshot.journals.get(trial.trial_id), latest.get(key)
        failure = None
        if journal is None:
            failure = blocked.get(trial.task_id) or (
                last.end.failure if last and last.end else None
            )
        states.append(TrialState(trial, journal, failure, tuple(by_key.get(key, ()))))
    return states


def verdicts_of(lock: Lock, snapshot: Snapshot) -> list[tuple[Verdict, TrialRecord]]:
    """Verdicts on all trials with an outcome: the first completed session, then replications."""
    admissions = {record.session_id: record for record in snapshot.admissions}
    found = []
    for journal in snapshot.journals.values():
        task = next((t for t in lock.tasks if t.task_id == journal.task_id), None)
        if task is not None:
            verdicts = _verdicts_of_trial(journal, task, snapshot, admissions)
            rules = PathRules(task.target_files, task.protected_paths, lock.analysis.enforce)
            found += [(with_path_rules(v, journal.patch, rules), journal) for v in verdicts]
    return sorted(found, key=lambda pair: (pair[0].trial_id, pair[0].replication))


def _verdicts_of_trial(
    journal: TrialRecord, task: LockedTask, snapshot: Snapshot, admissions: dict[str, SessionRecord]
) -> list[Verdict]:
    trial = (journal.task_id, journal.agent, journal.attempt)
    admission = next((a for a in admissions.values() if a.conditions == task.conditions), None)
    scoreable = admission.scoreable if admission else None
    sessions = [
        session
        for session in snapshot.sessions
        if session.conditions == task.conditions and _measures(session, journal)
    ]
    if unmeasured_validity(journal.patch) is not None or not sessions:
        reason = _why_not_measured(task, snapshot)
        return [
            judge_trial(
                trial, journal.trial_id, journal.patch, None, scoreable, not_measured_reason=reason
            )
        ]
    return [
        judge_trial(trial, journal.trial_id, journal.patch, session, scoreable, number)
        for number, session in enumerate(sessions)
    ]


def _measures(session: SessionRecord, journal: TrialRecord) -> bool:
    tree = journal.patch.tree if journal.patch else None
    trees = {a.tree for a in session.arms if a.trials or a.name not in ("base", "base2", HUMAN)}
    return tree in trees


def _why_not_measured(task: LockedTask, snapshot: Snapshot) -> str:
    """The last failure of the task's admission or sessions, in words."""
    for execution in reversed(snapshot.executions):
        if execution.key.work != "trial" and execution.key.work_id.startswith(f"{task.task_id}/"):
            failure = execution.end.failure if execution.end else None
            if failure is not None:
                return f"{failure.failure_class}: {failure.message}"
    return "no session has been completed"
