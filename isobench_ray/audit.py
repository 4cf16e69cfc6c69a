"""verify: do records parse, do hashes match, does every count add up."""

from __future__ import annotations

import pyarrow as pa

from isobench_ray.dataset import all_rows, read_table
from isobench_ray.errors import RecordError
from isobench_ray.lock import Lock
from isobench_ray.results import Results, Snapshot, Work, WorkKey
from isobench_ray.standing import trial_states
from isobench_ray.tables import TABLES
from isobench_ray.trial import Artifact


def audit(results: Results, lock: Lock) -> list[str]:
    """Everything that is wrong with Results, one line each; empty when all is well."""
    try:
        snapshot = results.snapshot()
    except RecordError as error:
        return [str(error)]
    return [
        *_artifacts(results, snapshot),
        *_plan(lock, snapshot),
        *_executions(snapshot),
        *_dataset(results, lock, snapshot),
    ]


def _artifacts(results: Results, snapshot: Snapshot) -> list[str]:
    """Artifacts of winning executions against the hashes in their records."""
    held: list[tuple[WorkKey, int, tuple[Artifact, ...]]] = [
        (WorkKey("trial", j.trial_id), j.execution, j.artifacts) for j in snapshot.journals.values()
    ]
    for record in (*snapshot.admissions, *snapshot.sessions):
        work: Work = "admission" if record.kind == "admission" else "session"
        key = WorkKey(work, f"{record.task_id}/{record.session_id}")
        held.append((key, record.execution, record.artifacts))
    problems = []
    for key, number, artifacts in held:
        for artifact in artifacts:
            try:
                results.artifact(key, number, artifact)
            except RecordError as error:
                problems.append(str(error))
    return problems


def _plan(lock: Lock, snapshot: Snapshot) -> list[str]:
    planned = {trial.trial_id for trial in lock.trials}
    problems = [
        f"trial {trial_id} has a journal and is not planned"
        for trial_id in snapshot.journals
        if trial_id not in planned
    ]
    states = trial_states(lock, snapshot)
    if len(states) != len(planned):
        problems.append(f"{len(states)} trials in the tables, {len(planned)} planned")
    return problems


def _executions(snapshot: Snapshot) -> list[str]:
    """No execution may have been claimed after its work had a record."""
    problems = []
    for execution in snapshot.executions:
        if execution.key.work != "trial":
            continue
        journal = snapshot.journals.get(execution.key.work_id)
        late = journal is not None and execution.number > journal.execution
        if journal is not None and late and execution.claim.claimed_at > journal.ended_at:
            problems.append(
                f"trial {journal.trial_id}: execution {execution.number} started after execution "
                f"{journal.execution} had ended with an outcome"
            )
    return problems


def _dataset(results: Results, lock: Lock, snapshot: Snapshot) -> list[str]:
    problems = []
    for name, rows in all_rows(results, lock, snapshot).items():
        key = TABLES[name].key
        try:
            table = read_table(results, name)
        except (pa.ArrowException, OSError) as error:
            problems.append(
                f"table {name} cannot be read ({error}); rebuild with: "
                f"isobench-ray dataset {results.uri}"
            )
            continue
        stored = {tuple(row[c] for c in key): row["record_sha256"] for row in table.to_pylist()}
        wanted = {tuple(row[c] for c in key): row["record_sha256"] for row in rows}
        if len(wanted) != len(rows):
            problems.append(f"table {name}: two records have one key")
        if stored != wanted:
            missing, extra = len(wanted.keys() - stored.keys()), len(stored.keys() - wanted.keys())
            other = sum(stored[k] != wanted[k] for k in stored.keys() & wanted.keys())
            problems.append(
                f"table {name} differs from the records ({missing} rows missing, {extra} too many, "
                f"{other} of another record); rebuild with: isobench-ray dataset {results.uri}"
            )
    return problems
