"""The columns of the Parquet tables, declared: name, type, meaning, and where the value comes from.

Columns are only ever added, and are nullable. Each table has a key by which readers de-duplicate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa

from isobench_ray.failure import Failure
from isobench_ray.schema import RecordModel, sha256_hex
from isobench_ray.session import ArmResult, Sample, SessionRecord
from isobench_ray.statistics import Contrast
from isobench_ray.trial import Trial, TrialRecord
from isobench_ray.verdict import Verdict

TEXT, INT, REAL, BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()
TIME = pa.timestamp("us", tz="UTC")
WORDS = pa.list_(pa.string())


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
        fields = [pa.field(c.name, c.type, metadata={"meaning": c.meaning}) for c in self.columns]
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


def _get(name: str) -> Callable[[dict[str, Any]], Any]:
    """Read a key; None where a line has none."""
    return lambda row: row.get(name)


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


def _verdict_columns(*declared: tuple[str, pa.DataType, str]) -> tuple[Column, ...]:
    return tuple(
        Column(name, kind, words, _of(f"verdict.{name}")) for name, kind, words in declared
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
                Column(
                    "workload_kind",
                    TEXT,
                    "kind of workload",
                    lambda t: t.workload.get("kind", "command"),
                ),
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
                Column("workspace_kind", TEXT, "copy or overlay", _of("journal.workspace_kind")),
                Column("excluded", WORDS, "left out of the patch", _of("journal.excluded")),
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
                Column("passes", pa.list_(REAL), "raw passes", lambda s: list(s.sample.passes)),
                Column("outside_s", REAL, "harness's clock", _of("sample.outside_s")),
                Column("record_sha256", TEXT, "hash of record", lambda s: _record_hash(s.session)),
            ),
        ),
        Table(
            "verdicts",
            ("trial_id", "replication"),
            (
                *_verdict_columns(
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
                    ("violations", WORDS, "changes against the task's rules"),
                    ("legacy_isobench", TEXT, "ISO-Bench's own rule, for comparison"),
                ),
                Column("record_sha256", TEXT, "of the journal", lambda s: _record_hash(s.journal)),
            ),
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
                Column(name, kind, meaning, _get(name))
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
