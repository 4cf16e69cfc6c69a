"""The Parquet tables: projections of the records, declared as columns.

Records are the truth. While a driver lives, rows of finished work are added in batches as
`part-<epoch>-<seq>.parquet`; at the end, or by `isobench-ray dataset`, each table is rebuilt from
the records into one part. Readers de-duplicate by a table's key, the latest part wins. Columns are
only ever added, and are nullable.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from isobench_ray.failure import Failure
from isobench_ray.planning import latest_executions
from isobench_ray.resolve import Lock, LockedTask
from isobench_ray.results import Execution, Results, Snapshot, WorkKey
from isobench_ray.schema import RecordModel, sha256_hex
from isobench_ray.session import HUMAN, ArmResult, Sample, SessionRecord
from isobench_ray.statistics import Contrast
from isobench_ray.trial import Trial, TrialRecord
from isobench_ray.verdict import Verdict, judge_trial, unmeasured_validity

TEXT, INT, REAL, BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()
TIME = pa.timestamp("us", tz="UTC")


class Column(NamedTuple):
    """One column: its name, type, meaning, and how it is read from a row's source."""

    name: str
    type: pa.DataType
    meaning: str
    read: Callable[[Any], Any]


class Table(NamedTuple):
    """One table: its key, and its columns."""

    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema; the meaning of a column is in its metadata."""
        fields = [
            pa.field(c.name, c.type, metadata={"meaning": c.meaning}) for c in self.columns
        ]
        return pa.schema(fields)

    def row(self, source: Any) -> dict[str, Any]:
        """One row."""
        return {column.name: column.read(source) for column in self.columns}


class TrialSource(NamedTuple):
    """What a row of `trials` is made of."""

    trial: Trial
    journal: TrialRecord | None
    failure: Failure | None
    executions: int


class ArmSourceRow(NamedTuple):
    """What a row of `sessions` is made of: one arm of one session."""

    session: SessionRecord
    arm: ArmResult


class SampleSource(NamedTuple):
    """What a row of `samples` is made of."""

    session: SessionRecord
    sample: Sample


class VerdictSource(NamedTuple):
    """What a row of `verdicts` is made of."""

    verdict: Verdict
    journal: TrialRecord


def _record_hash(record: RecordModel | None) -> str | None:
    return None if record is None else sha256_hex(record.to_json())


def _of(path: str) -> Callable[[Any], Any]:
    """Read a dotted path; None as soon as something on the way is None."""
    names = path.split(".")

    def read(source: Any) -> Any:
        for name in names:
            if source is None:
                return None
            source = getattr(source, name)
        return source

    return read


def _contrast_columns(field: str, words: str) -> tuple[Column, ...]:
    def read(part: str) -> Callable[[Any], Any]:
        def value(source: ArmSourceRow) -> float | None:
            contrast: Contrast | None = getattr(source.arm, field)
            return None if contrast is None else getattr(contrast, part)

        return value

    return tuple(
        Column(f"{field}_{part}", REAL, f"{meaning} of the log-ratio {words}", read(part))
        for part, meaning in (
            ("mean", "mean"),
            ("sd", "standard deviation per block"),
            ("low", "lower 95 % end"),
            ("high", "upper 95 % end"),
        )
    )


TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            "tasks",
            ("task_id",),
            (
                Column("task_id", TEXT, "the task", _of("task_id")),
                Column("repository", TEXT, "its repository", _of("repository")),
                Column("base_commit", TEXT, "where agents start", _of("base_commit")),
                Column("human_commit", TEXT, "the yardstick", _of("human_commit")),
                Column("instruction", TEXT, "what agents are told", _of("instruction")),
                Column("workload_kind", TEXT, "kind of workload", lambda t: t.workload.get("kind", "command")),
                Column("tags", pa.list_(TEXT), "free words", lambda t: list(t.tags)),
                Column("files_sha256", TEXT, "hash of its files", _of("files_sha256")),
                Column("base_tree", TEXT, "git tree of base", _of("base_tree")),
                Column("human_tree", TEXT, "git tree of human", _of("human_tree")),
                Column("conditions", TEXT, "measuring conditions", _of("conditions")),
                Column("failure_class", TEXT, "why unusable", _of("failure.failure_class")),
                Column("failure_message", TEXT, "in words", _of("failure.message")),
                Column("record_sha256", TEXT, "hash of the record", _record_hash),
            ),
        ),
        Table(
            "trials",
            ("trial_id",),
            (
                Column("trial_id", TEXT, "task/agent/attempt-k", _of("trial.trial_id")),
                Column("task_id", TEXT, "the task", _of("trial.task_id")),
                Column("agent", TEXT, "the agent", _of("trial.agent")),
                Column("attempt", INT, "repetition, from 1", _of("trial.attempt")),
                Column("solve_identity", TEXT, "conditions", _of("trial.solve_identity")),
                Column("outcome", TEXT, "null while there is none", _of("journal.outcome")),
                Column("outcome_detail", TEXT, "in words", _of("journal.outcome_detail")),
                Column("failure_class", TEXT, "why no outcome", _of("failure.failure_class")),
                Column("failure_message", TEXT, "in words", _of("failure.message")),
                Column("failure_blame", TEXT, "who can mend it", _of("failure.policy.blame")),
                Column("executions", INT, "executions so far", _of("executions")),
                Column("execution", INT, "the one that won", _of("journal.execution")),
                Column("agent_kind", TEXT, "the adapter", _of("journal.agent_kind")),
                Column("agent_version", TEXT, "its version", _of("journal.agent_version")),
                Column("model_requested", TEXT, "asked", _of("journal.model_requested")),
                Column("model_served", TEXT, "answered", _of("journal.model_served")),
                Column(
                    "has_patch",
                    BOOL,
                    "whether a patch was kept",
                    lambda s: None if s.journal is None else s.journal.patch is not None,
                ),
                Column("patch_sha256", TEXT, "hash of the diff", _of("journal.patch.sha256")),
                Column("tree", TEXT, "resulting git tree", _of("journal.patch.tree")),
                Column("lines_added", INT, "by the patch", _of("journal.patch.lines_added")),
                Column("lines_removed", INT, "by the patch", _of("journal.patch.lines_removed")),
                Column(
                    "files_changed",
                    INT,
                    "by the patch",
                    _of("journal.metrics.changed_files_count"),
                ),
                Column("steps", INT, "agent's steps", _of("journal.usage.steps")),
                Column("input_tokens", INT, "fresh", _of("journal.usage.input_tokens")),
                Column("cache_read_tokens", INT, "cached", _of("journal.usage.cache_read_tokens")),
                Column(
                    "cache_write_tokens", INT, "cached", _of("journal.usage.cache_write_tokens")
                ),
                Column("output_tokens", INT, "with reasoning", _of("journal.usage.output_tokens")),
                Column("cost_usd", REAL, "null when unknown", _of("journal.usage.cost_usd")),
                Column("agent_s", REAL, "agent's process", _of("journal.agent_s")),
                Column("workspace_s", REAL, "making the workspace", _of("journal.workspace_s")),
                Column("extract_s", REAL, "taking the patch", _of("journal.extract_s")),
                Column("sandbox", TEXT, "mechanism", _of("journal.sandbox.mechanism")),
                Column("hostname", TEXT, "node", _of("journal.worker.hostname")),
                Column("started_at", TIME, "start", _of("journal.started_at")),
                Column("ended_at", TIME, "end", _of("journal.ended_at")),
                Column("record_sha256", TEXT, "hash of journal.json", lambda s: _record_hash(s[1])),
            ),
        ),
        Table(
            "executions",
            ("work", "work_id", "execution"),
            (
                Column("work", TEXT, "trial, session or admission", _of("key.work")),
                Column("work_id", TEXT, "its id", _of("key.work_id")),
                Column("execution", INT, "number, from 1", _of("number")),
                Column("epoch", INT, "driver that leased it", _of("claim.epoch")),
                Column("lost", BOOL, "no end was recorded", lambda e: e.end is None),
                Column("outcome", TEXT, "a trial's outcome", _of("end.outcome")),
                Column("failure_class", TEXT, "failure", _of("end.failure.failure_class")),
                Column("failure_message", TEXT, "in words", _of("end.failure.message")),
                Column("hostname", TEXT, "node", _of("claim.worker.hostname")),
                Column("pid", INT, "worker process", _of("claim.worker.pid")),
                Column("claimed_at", TIME, "start", _of("claim.claimed_at")),
                Column("ended_at", TIME, "end", _of("end.ended_at")),
                Column("duration_s", REAL, "seconds", _of("end.duration_s")),
                Column("cost_usd", REAL, "null when unknown", _of("end.cost_usd")),
                Column("record_sha256", TEXT, "hash of claim", lambda e: _record_hash(e.claim)),
            ),
        ),
        Table(
            "sessions",
            ("session_id", "arm"),
            (
                Column("session_id", TEXT, "session or admission", _of("session.session_id")),
                Column("kind", TEXT, "admission or measure", _of("session.kind")),
                Column("task_id", TEXT, "the task", _of("session.task_id")),
                Column("conditions", TEXT, "measuring conditions", _of("session.conditions")),
                Column("seed", INT, "seed of orders and inputs", _of("session.seed")),
                Column("execution", INT, "the one that won", _of("session.execution")),
                Column("metric", TEXT, "primary metric", _of("session.metric")),
                Column("n_blocks", INT, "blocks", _of("session.n_blocks")),
                Column("arm", TEXT, "arm", _of("arm.name")),
                Column("tree", TEXT, "its git tree", _of("arm.tree")),
                Column("correct", BOOL, "check and workload passed", _of("arm.correct")),
                Column("incorrect_reason", TEXT, "why not", _of("arm.incorrect_reason")),
                Column("median", REAL, "median over blocks", _of("arm.median")),
                *_contrast_columns("vs_base", "against base"),
                *_contrast_columns("vs_human", "against human"),
                *_contrast_columns("vs_half_human", "own gain minus half of the human's"),
                Column("sandbox", TEXT, "mechanism", _of("session.sandbox.mechanism")),
                Column("hostname", TEXT, "node", _of("session.worker.hostname")),
                Column("started_at", TIME, "start", _of("session.started_at")),
                Column("ended_at", TIME, "end", _of("session.ended_at")),
                Column("duration_s", REAL, "seconds", _of("session.duration_s")),
                Column("record_sha256", TEXT, "hash of record", lambda s: _record_hash(s.session)),
            ),
        ),
        Table(
            "samples",
            ("session_id", "arm", "block", "metric"),
            (
                Column("session_id", TEXT, "session or admission", _of("session.session_id")),
                Column("task_id", TEXT, "the task", _of("session.task_id")),
                Column("arm", TEXT, "arm", _of("sample.arm")),
                Column("block", INT, "block, from 0", _of("sample.block")),
                Column("position", INT, "place in the block's order", _of("sample.position")),
                Column("metric", TEXT, "metric", _of("sample.metric")),
                Column("value", REAL, "its value", _of("sample.value")),
                Column("n_passes", INT, "passes behind it", _of("sample.n_passes")),
                Column(
                    "passes", pa.list_(REAL), "raw passes", lambda s: list(s.sample.passes)
                ),
                Column("outside_s", REAL, "harness's clock", _of("sample.outside_s")),
                Column("record_sha256", TEXT, "hash of record", lambda s: _record_hash(s.session)),
            ),
        ),
        Table(
            "verdicts",
            ("trial_id", "replication"),
            tuple(
                Column(name, kind, meaning, _of(f"verdict.{name}"))
                for name, kind, meaning in (
                    ("trial_id", TEXT, "the trial"),
                    ("task_id", TEXT, "its task"),
                    ("agent", TEXT, "its agent"),
                    ("attempt", INT, "its attempt"),
                    ("session_id", TEXT, "null when not measured"),
                    ("replication", INT, "0 counts, others replicate"),
                    ("arm", TEXT, "arm of the session"),
                    ("validity", TEXT, "whether the speed says anything"),
                    ("reason", TEXT, "why it does not"),
                    ("vs_base", TEXT, "against base"),
                    ("vs_human", TEXT, "against human"),
                    ("same_tree_as", TEXT, "human, for its very tree"),
                    ("passed", BOOL, "ok, faster, beats or matches"),
                    ("scoreable", TEXT, "what the admission decided"),
                    ("speedup", REAL, "over base"),
                    ("speedup_low", REAL, "lower 95 % end"),
                    ("speedup_high", REAL, "upper 95 % end"),
                    ("ratio_to_human", REAL, "speed relative to the human's"),
                    ("ratio_to_human_low", REAL, "lower 95 % end"),
                    ("ratio_to_human_high", REAL, "upper 95 % end"),
                    ("legacy_isobench", TEXT, "ISO-Bench's own rule, for comparison"),
                )
            )
            + (Column("record_sha256", TEXT, "of the journal", lambda s: _record_hash(s.journal)),),
        ),
        Table(
            "admissions",
            ("admission_id",),
            (
                Column("admission_id", TEXT, "the admission", _of("session.session_id")),
                Column("task_id", TEXT, "the task", _of("session.task_id")),
                Column("conditions", TEXT, "measuring conditions", _of("session.conditions")),
                Column("scoreable", TEXT, "what it decides", _of("session.scoreable")),
                Column("seed", INT, "seed", _of("session.seed")),
                Column("n_blocks", INT, "blocks", _of("session.n_blocks")),
                *_contrast_columns("vs_base", "of human against base"),
                Column("ended_at", TIME, "end", _of("session.ended_at")),
                Column("record_sha256", TEXT, "hash of record", lambda s: _record_hash(s.session)),
            ),
        ),
        Table(
            "events",
            ("epoch", "sequence"),
            tuple(
                Column(name, kind, meaning, lambda event, name=name: event.get(name))
                for name, kind, meaning in (
                    ("epoch", INT, "driver"),
                    ("sequence", INT, "number within the epoch"),
                    ("time", TEXT, "UTC, ISO 8601"),
                    ("event", TEXT, "what happened"),
                    ("work", TEXT, "trial, session or admission"),
                    ("work_id", TEXT, "its id"),
                    ("execution", INT, "its execution"),
                    ("worker", TEXT, "the worker"),
                    ("detail", TEXT, "more"),
                    ("record_sha256", TEXT, "hash of the event's line"),
                )
            ),
        ),
    )
}


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
            failure = blocked.get(trial.task_id) or (last.end.failure if last and last.end else None)
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
            found += [(verdict, journal) for verdict in verdicts]
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
        if execution.key.work != "trial" and execution.key.work_id.startswith(
            f"{task.task_id}/"
        ):
            failure = execution.end.failure if execution.end else None
            if failure is not None:
                return f"{failure.failure_class}: {failure.message}"
    return "no session has been completed"


def all_rows(results: Results, lock: Lock, snapshot: Snapshot) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, from the records."""
    sources: dict[str, Iterable[Any]] = {
        "tasks": lock.tasks,
        "trials": [TrialSource(s[0], s[1], s[2], len(s[3])) for s in trial_states(lock, snapshot)],
        "executions": snapshot.executions,
        "sessions": [
            ArmSourceRow(session, arm)
            for session in (*snapshot.admissions, *snapshot.sessions)
            for arm in session.arms
        ],
        "samples": [
            SampleSource(session, sample)
            for session in (*snapshot.admissions, *snapshot.sessions)
            for sample in session.samples
        ],
        "verdicts": [VerdictSource(*pair) for pair in verdicts_of(lock, snapshot)],
        "admissions": [
            ArmSourceRow(record, arm)
            for record in snapshot.admissions
            for arm in record.arms
            if arm.name == HUMAN
        ],
        "events": events(results),
    }
    return {name: [TABLES[name].row(s) for s in rows] for name, rows in sources.items()}


def events(results: Results) -> list[dict[str, Any]]:
    """All events of all drivers, each with the hash of its line."""
    rows = []
    for key in results.store.list("events/"):
        for row in results.read_lines(key):
            rows.append(row | {"record_sha256": sha256_hex(repr(sorted(row.items())).encode())})
    return sorted(rows, key=lambda row: (row["epoch"], row["sequence"]))


def rebuild(results: Results, lock: Lock, snapshot: Snapshot, epoch: int) -> dict[str, int]:
    """Rebuild every table from the records into one part; number of rows by table."""
    counts = {}
    for name, rows in all_rows(results, lock, snapshot).items():
        old = results.store.list(f"dataset/{name}/")
        sequence = 1 + max([_sequence(key) for key in old], default=-1)
        new = _write_part(results, name, rows, epoch, sequence)
        for key in old:
            if key != new:
                results.store.delete(key)
        counts[name] = len(rows)
    return counts


class Appender:
    """Adds rows of finished work while a driver lives, in batches."""

    def __init__(self, results: Results, epoch: int, batch: int = 200) -> None:
        self._results, self._epoch, self._batch = results, epoch, batch
        self._waiting: dict[str, list[dict[str, Any]]] = {}
        self._sequence = 0

    def add_trial(self, journal: TrialRecord, trial: Trial, executions: int) -> None:
        """A trial that has an outcome."""
        self._add("trials", [TrialSource(trial, journal, None, executions)])

    def add_session(self, session: SessionRecord) -> None:
        """A session, or admission, that was completed."""
        self._add("sessions", [ArmSourceRow(session, arm) for arm in session.arms])
        self._add("samples", [SampleSource(session, sample) for sample in session.samples])

    def flush(self) -> None:
        """Write what waits."""
        for name, rows in self._waiting.items():
            _write_part(self._results, name, rows, self._epoch, self._sequence)
        self._sequence += bool(self._waiting)
        self._waiting = {}

    def _add(self, name: str, sources: list[Any]) -> None:
        rows = self._waiting.setdefault(name, [])
        rows += [TABLES[name].row(source) for source in sources]
        if sum(len(waiting) for waiting in self._waiting.values()) >= self._batch:
            self.flush()


def read_table(results: Results, name: str) -> pa.Table:
    """A table, de-duplicated by its key: of rows with one key the one in the latest part.

    Raises:
        KeyError: there is no such table.
    """
    table = TABLES[name]
    parts = sorted(results.store.list(f"dataset/{name}/"), key=_part_order)
    latest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for key in parts:
        data = results.store.get(key)
        if data is None:
            continue  # compacted between listing and reading
        for row in pq.read_table(io.BytesIO(data)).to_pylist():
            latest[tuple(row[column] for column in table.key)] = row
    return pa.Table.from_pylist(list(latest.values()), schema=table.schema)


def _write_part(
    results: Results, name: str, rows: list[dict[str, Any]], epoch: int, sequence: int
) -> str:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=TABLES[name].schema), buffer)
    key = f"dataset/{name}/part-{epoch}-{sequence}.parquet"
    results.store.put(key, buffer.getvalue())
    return key


def _sequence(key: str) -> int:
    return _part_order(key)[1]


def _part_order(key: str) -> tuple[int, int]:
    _, epoch, sequence = key.removesuffix(".parquet").rsplit("/", 1)[-1].split("-")
    return int(epoch), int(sequence)
