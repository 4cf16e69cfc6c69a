"""Results: the folder where everything of one experiment lies, and the rules of writing there.

    RESULTS/
      experiment.yaml  lock.json         as written / what it resolved to
      run.log  invocations.jsonl         log of all drivers; each start and end of `run`
      driver.json  epochs/<n>.json       the living driver, and the right to be it
      trials/<task>/<agent>/attempt-<k>/
          journal.json                   the TrialRecord: create-once, published last
          <artifact>                     links to the winning execution's files; never read here
          executions/<n>/claim.json      create-once, before any work
          executions/<n>/end.json        how it ended; and the files it wrote
      sessions/<task>/<session>/         session.json and executions/ by the same rules
      admissions/<task>/<admission>/     admission.json and executions/ by the same rules
      events/<epoch>.jsonl               what the driver did
      dataset/<table>/part-*.parquet     projection of the records
      report.md

A record's existence means done: `publish` stores the artifacts, then `end.json`, then creates the
record once. Whoever comes second loses and overwrites nothing.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import ValidationError

from isobench_ray.errors import RecordError
from isobench_ray.schema import RecordModel, sha256_hex
from isobench_ray.session import SessionPlan, SessionRecord
from isobench_ray.store import LocalStore, open_store
from isobench_ray.trial import Artifact, ExecutionClaim, ExecutionEnd, TrialRecord

Work = Literal["trial", "session", "admission"]
Model = TypeVar("Model", bound=RecordModel)

LINKED_ARTIFACTS = (
    "prompt.md",
    "model_patch.diff",
    "trajectory.json",
    "steps.jsonl",
    "run_summary.json",
    "stdout.log",
    "stderr.log",
)


class WorkKey(NamedTuple):
    """Names one piece of work and knows where it lies."""

    work: Work
    work_id: str

    @property
    def folder(self) -> str:
        """Key prefix of the work, with a final slash."""
        return f"{self.work}s/{self.work_id}/"

    @property
    def record(self) -> str:
        """Key of the record whose existence means done."""
        name = "journal" if self.work == "trial" else self.work
        return f"{self.folder}{name}.json"

    def execution(self, number: int) -> str:
        """Key prefix of one execution, with a final slash."""
        return f"{self.folder}executions/{number}/"


class Execution(NamedTuple):
    """One execution as Results know it; `end` is None while it runs, or when it was lost."""

    key: WorkKey
    number: int
    claim: ExecutionClaim
    end: ExecutionEnd | None


class Snapshot(NamedTuple):
    """All records of Results at one moment."""

    journals: dict[str, TrialRecord]
    """By trial id."""
    sessions: list[SessionRecord]
    """Completed measure sessions, in the order in which they ended."""
    admissions: list[SessionRecord]
    """Completed admissions, in the order in which they ended."""
    executions: list[Execution]
    """By work and number."""

    def admission(self, plan: SessionPlan) -> SessionRecord | None:
        """The completed admission of a plan."""
        return next((a for a in self.admissions if a.session_id == plan.session_id), None)


class Results:
    """Reads and writes one Results folder."""

    def __init__(self, store: LocalStore) -> None:
        self.store = store

    @property
    def uri(self) -> str:
        """The path that names these Results."""
        return self.store.uri

    def claim(self, key: WorkKey, claim: ExecutionClaim) -> bool:
        """Take the right to start an execution; False if somebody has it or the work is done."""
        if self.store.get(key.record) is not None:
            return False
        name = f"{key.execution(claim.execution)}claim.json"
        return self.store.create_once(name, claim.to_json())

    def store_artifacts(self, key: WorkKey, number: int, folder: Path) -> tuple[Artifact, ...]:
        """Copy all files of a local folder under an execution."""
        artifacts = []
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not path.is_file():
                continue
            name, data = path.relative_to(folder).as_posix(), path.read_bytes()
            self.store.put(key.execution(number) + name, data)
            artifacts.append(Artifact(name=name, sha256=sha256_hex(data), size_bytes=len(data)))
        return tuple(artifacts)

    def publish(
        self, key: WorkKey, number: int, end: ExecutionEnd, record: RecordModel | None
    ) -> bool:
        """End an execution and, if it yielded a record, commit that; whether this one counts.

        Artifacts must be stored already. False: somebody has ended this execution before (it was
        taken for lost), or another execution's record was there first.
        """
        if not self.store.create_once(f"{key.execution(number)}end.json", end.to_json()):
            return False
        if record is None:
            return True
        won = self.store.create_once(key.record, record.to_json())
        if won:
            self.restore_links(key, number, [artifact.name for artifact in end.artifacts])
        return won

    def restore_links(self, key: WorkKey, number: int, names: list[str]) -> None:
        """Put the well-known file names beside a trial's journal; for people and other tools."""
        if key.work != "trial":
            return
        for name in LINKED_ARTIFACTS:
            if name in names:
                self.store.link(key.folder + name, key.execution(number) + name)

    def trial_record(self, trial_id: str) -> TrialRecord | None:
        """The journal of a trial; None while it has none."""
        return self._read(WorkKey("trial", trial_id).record, TrialRecord)

    def trial_records(self) -> list[TrialRecord]:
        """All journals."""
        return self._read_all("trials/", "/journal.json", TrialRecord)

    def session_record(self, key: WorkKey) -> SessionRecord | None:
        """The record of a session or admission; None while it has none."""
        return self._read(key.record, SessionRecord)

    def session_records(self, work: Literal["session", "admission"]) -> list[SessionRecord]:
        """All completed sessions, or admissions, in the order in which they ended."""
        records = self._read_all(f"{work}s/", f"/{work}.json", SessionRecord)
        return sorted(records, key=lambda record: (record.ended_at, record.session_id))

    def executions(self) -> list[Execution]:
        """All executions of all work, by work and number."""
        found = []
        for work in ("trial", "session", "admission"):
            found += self._executions_under(work, f"{work}s/")
        return sorted(found, key=lambda e: (e.key, e.number))

    def snapshot(self) -> Snapshot:
        """Read all records.

        Raises:
            RecordError: a record does not parse.
        """
        return Snapshot(
            {record.trial_id: record for record in self.trial_records()},
            self.session_records("session"),
            self.session_records("admission"),
            self.executions(),
        )

    def refreshed(self, snapshot: Snapshot, key: WorkKey) -> Snapshot:
        """The snapshot with one piece of work read anew."""
        executions = [e for e in snapshot.executions if e.key != key]
        executions += self._executions_under(key.work, f"{key.folder}executions/")
        executions.sort(key=lambda e: (e.key, e.number))
        if key.work == "trial":
            journal = self.trial_record(key.work_id)
            new = {key.work_id: journal} if journal else {}
            return snapshot._replace(journals=snapshot.journals | new, executions=executions)
        records = snapshot.sessions if key.work == "session" else snapshot.admissions
        record = self.session_record(key)
        if record is not None and record.identity not in [r.identity for r in records]:
            records = [*records, record]
        if key.work == "session":
            return snapshot._replace(executions=executions, sessions=records)
        return snapshot._replace(executions=executions, admissions=records)

    def artifact(self, key: WorkKey, number: int, artifact: Artifact) -> bytes:
        """Content of an artifact.

        Raises:
            RecordError: it is missing, or its hash is not the recorded one.
        """
        name = key.execution(number) + artifact.name
        data = self.store.get(name)
        if data is None or sha256_hex(data) != artifact.sha256:
            what = "is missing" if data is None else "does not have the recorded hash"
            raise RecordError(f"{self.uri}/{name}: {what}")
        return data

    def read_lines(self, key: str) -> list[dict[str, Any]]:
        """The whole lines of a JSONL log; a line torn by a kill is left out."""
        lines = (self.store.get(key) or b"").split(b"\n")[:-1]
        rows = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # a torn line that a later writer continued
        return rows

    def append_line(self, key: str, row: dict[str, Any]) -> None:
        """Add one line to a JSONL log."""
        self.store.append(key, json.dumps(row, default=str).encode() + b"\n")

    def _executions_under(self, work: Work, prefix: str) -> list[Execution]:
        names = [name for name in self.store.list(prefix) if name.endswith("/claim.json")]
        return [self._execution(work, name) for name in names]

    def _execution(self, work: Work, name: str) -> Execution:
        folder, _, number, _ = name.rsplit("/", 3)
        key = WorkKey(work, folder.removeprefix(f"{work}s/"))
        claim = self._read(name, ExecutionClaim)
        if claim is None:
            raise RecordError(f"{self.uri}/{name}: vanished while it was read")
        end = self._read(f"{key.execution(int(number))}end.json", ExecutionEnd)
        return Execution(key, int(number), claim, end)

    def _read_all(self, prefix: str, suffix: str, model: type[Model]) -> list[Model]:
        keys = [key for key in self.store.list(prefix) if key.endswith(suffix)]
        keys = [key for key in keys if not re.search(r"/executions/\d+/", key)]
        records = [self._read(key, model) for key in keys]
        return [record for record in records if record is not None]

    def _read(self, key: str, model: type[Model]) -> Model | None:
        data = self.store.get(key)
        if data is None:
            return None
        try:
            return model.model_validate_json(data)
        except ValidationError as error:
            raise RecordError(f"{self.uri}/{key}: not a {model.__name__}: {error}") from error


def open_results(uri: str | Path) -> Results:
    """Open Results for reading or writing; nothing is created.

    Raises:
        UserError: the URI's scheme is not in this release.
    """
    return Results(open_store(str(uri)))
