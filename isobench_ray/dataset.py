"""The Parquet tables: projections of the records.

Records are the truth. While a driver lives, rows of finished work are added in batches as
`part-<epoch>-<seq>.parquet`; at the end, or by `isobench-ray dataset`, each table is rebuilt from
the records into one part. Readers de-duplicate by a table's key, the latest part wins.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from isobench_ray.lock import Lock
from isobench_ray.parquet import read_parquet
from isobench_ray.results import Results, Snapshot
from isobench_ray.schema import canonical_json, sha256_hex
from isobench_ray.session import HUMAN, SessionRecord
from isobench_ray.standing import trial_states, verdicts_of
from isobench_ray.tables import (
    TABLES,
    ArmSourceRow,
    SampleSource,
    TrialSource,
    VerdictSource,
)
from isobench_ray.trial import Trial, TrialRecord


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
    rows = [
        row | {"record_sha256": sha256_hex(canonical_json(row))}
        for key in results.store.list("events/")
        for row in results.read_lines(key)
    ]
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
        for row in read_parquet(data).to_pylist():
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
