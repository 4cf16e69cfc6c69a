"""The Parquet tables: what is in them, that their schema stays, and that records are the truth."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isobench_ray.dataset import (
    TABLES,
    Appender,
    all_rows,
    read_table,
    rebuild,
    trial_states,
    verdicts_of,
)
from isobench_ray.results import WorkKey
from isobench_ray.schema import sha256_hex
from isobench_ray.trial import Trial
from tests.builders import (
    Scenario,
    admission,
    hex_id,
    human_tree,
    journal,
    lock,
    patch,
    resolved_experiment,
    scenario,
    scripted,
    sessions_of,
    snapshot,
    stored,
    task_row,
)

SCHEMAS = {
    ("tasks", "task_id", "string"),
    ("tasks", "repository", "string"),
    ("tasks", "base_commit", "string"),
    ("tasks", "human_commit", "string"),
    ("tasks", "instruction", "string"),
    ("tasks", "workload_kind", "string"),
    ("tasks", "tags", "list<item: string>"),
    ("tasks", "files_sha256", "string"),
    ("tasks", "base_tree", "string"),
    ("tasks", "human_tree", "string"),
    ("tasks", "conditions", "string"),
    ("tasks", "failure_class", "string"),
    ("tasks", "failure_message", "string"),
    ("tasks", "record_sha256", "string"),
    ("trials", "trial_id", "string"),
    ("trials", "task_id", "string"),
    ("trials", "agent", "string"),
    ("trials", "attempt", "int64"),
    ("trials", "solve_identity", "string"),
    ("trials", "outcome", "string"),
    ("trials", "outcome_detail", "string"),
    ("trials", "failure_class", "string"),
    ("trials", "failure_message", "string"),
    ("trials", "failure_blame", "string"),
    ("trials", "executions", "int64"),
    ("trials", "execution", "int64"),
    ("trials", "agent_kind", "string"),
    ("trials", "agent_version", "string"),
    ("trials", "model_requested", "string"),
    ("trials", "model_served", "string"),
    ("trials", "has_patch", "bool"),
    ("trials", "patch_sha256", "string"),
    ("trials", "tree", "string"),
    ("trials", "lines_added", "int64"),
    ("trials", "lines_removed", "int64"),
    ("trials", "files_changed", "int64"),
    ("trials", "steps", "int64"),
    ("trials", "input_tokens", "int64"),
    ("trials", "cache_read_tokens", "int64"),
    ("trials", "cache_write_tokens", "int64"),
    ("trials", "output_tokens", "int64"),
    ("trials", "cost_usd", "double"),
    ("trials", "agent_s", "double"),
    ("trials", "workspace_s", "double"),
    ("trials", "extract_s", "double"),
    ("trials", "workspace_kind", "string"),
    ("trials", "excluded", "list<item: string>"),
    ("trials", "sandbox", "string"),
    ("trials", "hostname", "string"),
    ("trials", "started_at", "timestamp[us, tz=UTC]"),
    ("trials", "ended_at", "timestamp[us, tz=UTC]"),
    ("trials", "record_sha256", "string"),
    ("executions", "work", "string"),
    ("executions", "work_id", "string"),
    ("executions", "execution", "int64"),
    ("executions", "epoch", "int64"),
    ("executions", "lost", "bool"),
    ("executions", "outcome", "string"),
    ("executions", "failure_class", "string"),
    ("executions", "failure_message", "string"),
    ("executions", "hostname", "string"),
    ("executions", "pid", "int64"),
    ("executions", "claimed_at", "timestamp[us, tz=UTC]"),
    ("executions", "ended_at", "timestamp[us, tz=UTC]"),
    ("executions", "duration_s", "double"),
    ("executions", "cost_usd", "double"),
    ("executions", "record_sha256", "string"),
    ("sessions", "session_id", "string"),
    ("sessions", "kind", "string"),
    ("sessions", "task_id", "string"),
    ("sessions", "conditions", "string"),
    ("sessions", "seed", "int64"),
    ("sessions", "execution", "int64"),
    ("sessions", "metric", "string"),
    ("sessions", "n_blocks", "int64"),
    ("sessions", "arm", "string"),
    ("sessions", "tree", "string"),
    ("sessions", "correct", "bool"),
    ("sessions", "incorrect_reason", "string"),
    ("sessions", "median", "double"),
    ("sessions", "vs_base_mean", "double"),
    ("sessions", "vs_base_sd", "double"),
    ("sessions", "vs_base_low", "double"),
    ("sessions", "vs_base_high", "double"),
    ("sessions", "vs_human_mean", "double"),
    ("sessions", "vs_human_sd", "double"),
    ("sessions", "vs_human_low", "double"),
    ("sessions", "vs_human_high", "double"),
    ("sessions", "vs_half_human_mean", "double"),
    ("sessions", "vs_half_human_sd", "double"),
    ("sessions", "vs_half_human_low", "double"),
    ("sessions", "vs_half_human_high", "double"),
    ("sessions", "sandbox", "string"),
    ("sessions", "hostname", "string"),
    ("sessions", "started_at", "timestamp[us, tz=UTC]"),
    ("sessions", "ended_at", "timestamp[us, tz=UTC]"),
    ("sessions", "duration_s", "double"),
    ("sessions", "record_sha256", "string"),
    ("samples", "session_id", "string"),
    ("samples", "task_id", "string"),
    ("samples", "arm", "string"),
    ("samples", "block", "int64"),
    ("samples", "position", "int64"),
    ("samples", "metric", "string"),
    ("samples", "value", "double"),
    ("samples", "n_passes", "int64"),
    ("samples", "passes", "list<item: double>"),
    ("samples", "outside_s", "double"),
    ("samples", "record_sha256", "string"),
    ("verdicts", "trial_id", "string"),
    ("verdicts", "task_id", "string"),
    ("verdicts", "agent", "string"),
    ("verdicts", "attempt", "int64"),
    ("verdicts", "session_id", "string"),
    ("verdicts", "replication", "int64"),
    ("verdicts", "arm", "string"),
    ("verdicts", "validity", "string"),
    ("verdicts", "reason", "string"),
    ("verdicts", "vs_base", "string"),
    ("verdicts", "vs_human", "string"),
    ("verdicts", "same_tree_as", "string"),
    ("verdicts", "passed", "bool"),
    ("verdicts", "scoreable", "string"),
    ("verdicts", "speedup", "double"),
    ("verdicts", "speedup_low", "double"),
    ("verdicts", "speedup_high", "double"),
    ("verdicts", "ratio_to_human", "double"),
    ("verdicts", "ratio_to_human_low", "double"),
    ("verdicts", "ratio_to_human_high", "double"),
    ("verdicts", "violations", "list<item: string>"),
    ("verdicts", "legacy_isobench", "string"),
    ("verdicts", "record_sha256", "string"),
    ("admissions", "admission_id", "string"),
    ("admissions", "task_id", "string"),
    ("admissions", "conditions", "string"),
    ("admissions", "scoreable", "string"),
    ("admissions", "seed", "int64"),
    ("admissions", "n_blocks", "int64"),
    ("admissions", "vs_base_mean", "double"),
    ("admissions", "vs_base_sd", "double"),
    ("admissions", "vs_base_low", "double"),
    ("admissions", "vs_base_high", "double"),
    ("admissions", "ended_at", "timestamp[us, tz=UTC]"),
    ("admissions", "record_sha256", "string"),
    ("events", "epoch", "int64"),
    ("events", "sequence", "int64"),
    ("events", "time", "string"),
    ("events", "event", "string"),
    ("events", "work", "string"),
    ("events", "work_id", "string"),
    ("events", "execution", "int64"),
    ("events", "worker", "string"),
    ("events", "detail", "string"),
    ("events", "record_sha256", "string"),
}


@pytest.fixture
def whole(tmp_path):
    return scenario(tmp_path / "results")


def _rows(whole: Scenario, table: str) -> list[dict[str, Any]]:
    return all_rows(whole.results, whole.lock, whole.snapshot)[table]


def _by(rows: list[dict[str, Any]], *names: str) -> dict[Any, dict[str, Any]]:
    key = (lambda row: row[names[0]]) if len(names) == 1 else lambda row: tuple(map(row.get, names))
    found = {key(row): row for row in rows}
    assert len(found) == len(rows), "two rows of one key"
    return found


def _rebuild(whole: Scenario, epoch: int = 1) -> dict[str, int]:
    return rebuild(whole.results, whole.lock, whole.snapshot, epoch)


def _tables(whole: Scenario) -> dict[str, list[dict[str, Any]]]:
    return {name: read_table(whole.results, name).to_pylist() for name in TABLES}


def test_columns_and_types_stay_and_new_ones_come_at_any_place_but_none_goes():
    """A change here needs a line in the CHANGELOG; a column that goes breaks readers."""
    found = {
        (table.name, column.name, str(column.type))
        for table in TABLES.values()
        for column in table.columns
    }
    assert found == SCHEMAS


def test_every_column_has_a_meaning_and_the_file_carries_it():
    for table in TABLES.values():
        assert len({column.name for column in table.columns}) == len(table.columns)
        assert set(table.key) <= {column.name for column in table.columns}
        for field in table.schema:
            assert field.metadata[b"meaning"], f"{table.name}.{field.name}"
            assert field.nullable


def test_every_row_carries_the_hash_of_its_record(whole):
    rows = all_rows(whole.results, whole.lock, whole.snapshot)
    for name, of_table in rows.items():
        assert of_table, name
        if name != "trials":
            assert all(len(row["record_sha256"]) == 64 for row in of_table), name
    for row in rows["trials"]:
        key = WorkKey("trial", row["trial_id"]).record
        stored_bytes = whole.results.store.get(key)
        assert row["record_sha256"] == (sha256_hex(stored_bytes) if stored_bytes else None)


def test_every_planned_trial_is_exactly_one_row(whole):
    rows = _by(_rows(whole, "trials"), "trial_id")
    assert sorted(rows) == sorted(whole.resolved.trials)
    assert len(rows) == 15
    with_outcome = [r for r in rows.values() if r["outcome"]]
    failed = [r for r in rows.values() if r["failure_class"]]
    opened = [r for r in rows.values() if not r["outcome"] and not r["failure_class"]]
    assert (len(with_outcome), len(failed), len(opened)) == (8, 6, 1)


def test_rows_of_trials(whole):
    rows = _by(_rows(whole, "trials"), "trial_id")
    won = rows["t1/fast/attempt-1"]
    assert (won["outcome"], won["tree"], won["has_patch"]) == ("patch", hex_id("t1 fast"), True)
    assert (won["lines_added"], won["cost_usd"], won["executions"]) == (3, 0.25, 1)
    assert won["input_tokens"] is None  # unknown is null, never 0
    stale = rows["t1/stale/attempt-1"]
    assert (stale["outcome"], stale["has_patch"], stale["tree"]) == ("patch", True, None)
    empty = rows["t1/nop/attempt-1"]
    assert (empty["outcome"], empty["has_patch"]) == ("no_patch", False)
    failed = rows["t2/wrong/attempt-1"]
    assert (failed["failure_class"], failed["failure_blame"]) == ("disk_full", "infrastructure")
    assert (failed["executions"], failed["outcome"], failed["has_patch"]) == (2, None, None)
    lost = rows["t2/stale/attempt-1"]
    assert (lost["executions"], lost["failure_class"], lost["agent_s"]) == (1, None, None)
    blocked = rows["t3/nop/attempt-1"]
    assert (blocked["failure_class"], blocked["executions"]) == ("commit_unknown", 0)
    assert blocked["solve_identity"] is None


def test_how_the_workspace_was_made_and_what_was_left_out_are_columns(tmp_path):
    resolved = resolved_experiment(agents=scripted("a", "b"))
    left = ("debug.log: ignored by .gitignore:1 (*.log)", "core: 40.0 MB, more than 20 MB")
    records = [
        journal("t1/a/attempt-1", workspace_kind="overlay", excluded=left),
        journal("t1/b/attempt-1", None),
    ]
    results = stored(tmp_path, resolved, snapshot(records))
    rows = _by(all_rows(results, lock(resolved), snapshot(records))["trials"], "agent")
    assert (rows["a"]["workspace_kind"], rows["a"]["excluded"]) == ("overlay", left)
    assert (rows["b"]["workspace_kind"], rows["b"]["excluded"]) == (None, ())
    rebuild(results, lock(resolved), snapshot(records), 1)
    assert _by(read_table(results, "trials").to_pylist(), "agent")["a"]["excluded"] == list(left)


def test_rows_of_tasks(whole):
    rows = _by(_rows(whole, "tasks"), "task_id")
    assert (rows["t1"]["tags"], rows["t1"]["workload_kind"]) == (["a", "b"], "command")
    assert rows["t1"]["human_tree"] == human_tree("t1")
    assert rows["t1"]["conditions"] == whole.resolved.tasks["t1"].conditions
    assert (rows["t3"]["failure_class"], rows["t3"]["base_tree"]) == ("commit_unknown", None)


def test_rows_of_executions(whole):
    rows = _by(_rows(whole, "executions"), "work", "work_id", "execution")
    assert len(rows) == len(whole.snapshot.executions) == 15
    first = rows["trial", "t2/wrong/attempt-1", 1]
    assert (first["failure_class"], first["lost"]) == ("worker_died", False)
    lost = rows["trial", "t2/stale/attempt-1", 1]
    assert (lost["lost"], lost["ended_at"], lost["duration_s"]) == (True, None, None)
    assert rows["trial", "t1/wrong/attempt-1", 1]["outcome"] == "timeout"
    assert {work for work, _, _ in rows} == {"trial", "session", "admission"}


def test_rows_of_sessions_and_samples(whole):
    rows = _by(_rows(whole, "sessions"), "session_id", "arm")
    (session,) = [s for s in whole.snapshot.sessions if s.task_id == "t1"]
    fast = rows[session.session_id, f"tree-{hex_id('t1 fast')[:12]}"]
    assert fast["vs_base_mean"] == pytest.approx(math.log(3))
    assert fast["vs_human_low"] == pytest.approx(math.log(1.5) - 0.01)
    wrong = rows[session.session_id, f"tree-{hex_id('t1 wrong')[:12]}"]
    assert (wrong["correct"], wrong["vs_base_mean"], wrong["median"]) == (False, None, None)
    assert "wrong answer" in wrong["incorrect_reason"]
    assert rows[session.session_id, "base"]["vs_base_mean"] is None
    samples = _by(_rows(whole, "samples"), "session_id", "arm", "block", "metric")
    records = (*whole.snapshot.sessions, *whole.snapshot.admissions)
    assert len(samples) == sum(len(record.samples) for record in records)
    sample = samples[session.session_id, "base", 2, "latency_ms"]
    assert (sample["value"], sample["n_passes"], sample["task_id"]) == (102.0, 1, "t1")


def test_rows_of_admissions(whole):
    rows = _by(_rows(whole, "admissions"), "task_id")
    assert {t: row["scoreable"] for t, row in rows.items()} == {
        "t1": "headline", "t2": "not_scoreable",
    }  # fmt: skip
    assert rows["t1"]["vs_base_mean"] == pytest.approx(math.log(2))


def test_rows_of_verdicts(whole):
    rows = _by(_rows(whole, "verdicts"), "trial_id")
    assert {trial: (row["validity"], row["passed"]) for trial, row in rows.items()} == {
        "t1/nop/attempt-1": ("no_patch", False),
        "t1/oracle/attempt-1": ("ok", True),
        "t1/fast/attempt-1": ("ok", True),
        "t1/wrong/attempt-1": ("incorrect", False),
        "t1/stale/attempt-1": ("does_not_apply", False),
        "t2/nop/attempt-1": ("no_patch", False),
        "t2/oracle/attempt-1": ("not_scoreable", False),
        "t2/fast/attempt-1": ("not_scoreable", False),
    }
    assert rows["t1/fast/attempt-1"]["vs_human"] == "beats"
    assert rows["t1/oracle/attempt-1"]["same_tree_as"] == "human"
    assert rows["t1/nop/attempt-1"]["session_id"] is None


def test_rows_of_events(whole):
    rows = _by(_rows(whole, "events"), "epoch", "sequence")
    assert [row["event"] for row in rows.values()] == ["worker_started", "leased", "ended"]


def test_an_event_of_a_version_that_knew_fewer_columns_has_nulls_in_the_others(whole):
    old = {"epoch": 0, "sequence": 0, "time": "2025-01-01T00:00:00+00:00", "event": "leased"}
    whole.results.append_line("events/0.jsonl", old)
    row = _by(_rows(whole, "events"), "epoch", "sequence")[0, 0]
    assert (row["event"], row["worker"], row["detail"]) == ("leased", None, None)


def test_the_tables_written_are_the_rows_of_the_records(whole):
    counts = _rebuild(whole)
    rows = all_rows(whole.results, whole.lock, whole.snapshot)
    assert set(counts) == set(TABLES) == set(rows)
    for name, table in TABLES.items():
        found = read_table(whole.results, name)
        assert found.schema.equals(table.schema)
        assert found == pa.Table.from_pylist(rows[name], schema=table.schema)
        assert counts[name] == found.num_rows


def test_a_second_rebuild_changes_no_row_and_leaves_one_part_of_each_table(whole):
    _rebuild(whole)
    before = _tables(whole)
    _rebuild(whole, epoch=2)
    assert _tables(whole) == before
    parts = [key.split("/")[1] for key in whole.results.store.list("dataset/")]
    assert sorted(parts) == sorted(TABLES)


def test_a_part_can_be_read_by_anybody_who_reads_parquet(whole):
    _rebuild(whole)
    (key,) = whole.results.store.list("dataset/trials/")
    found = pq.read_table(whole.results.store.root / key)
    assert found.num_rows == 15
    assert str(found.schema.field("started_at").type) == "timestamp[us, tz=UTC]"


@pytest.mark.parametrize("batch", [1, 7, 10_000])
def test_parts_appended_during_a_run_say_what_a_rebuild_says(whole, batch):
    appender = Appender(whole.results, epoch=1, batch=batch)
    for record in whole.snapshot.journals.values():
        appender.add_trial(record, whole.resolved.trials[record.trial_id].trial, 1)
    for record in (*whole.snapshot.admissions, *whole.snapshot.sessions):
        appender.add_session(record)
    appender.flush()
    appended = _tables(whole)
    assert appended["samples"], "nothing was appended"
    _rebuild(whole)
    rebuilt = _tables(whole)
    for name in ("trials", "sessions", "samples"):
        key = TABLES[name].key
        theirs = _by(rebuilt[name], *key)
        mine = _by(appended[name], *key)
        if name == "trials":
            theirs = {k: row for k, row in theirs.items() if row["outcome"]}
        assert mine == theirs, name


def test_appending_the_same_work_twice_is_one_row(whole):
    record = whole.snapshot.sessions[0]
    for epoch in (1, 2):
        appender = Appender(whole.results, epoch)
        appender.add_session(record)
        appender.flush()
    assert len(whole.results.store.list("dataset/sessions/")) == 2
    assert read_table(whole.results, "sessions").num_rows == len(record.arms)


def test_of_rows_with_one_key_the_latest_part_wins_by_number_not_by_name(tmp_path):
    resolved = resolved_experiment(agents=scripted("a"))
    results = stored(tmp_path, resolved, snapshot())
    trial = Trial(task_id="t1", agent="a", attempt=1)
    for epoch, agent_s in ((10, 10.0), (9, 9.0), (2, 2.0)):
        appender = Appender(results, epoch)
        appender.add_trial(journal(trial.trial_id, agent_s=agent_s), trial, 1)
        appender.flush()
    assert read_table(results, "trials").column("agent_s").to_pylist() == [10.0]
    late = Appender(results, 10)
    for number in range(12):
        late.add_trial(journal(trial.trial_id, agent_s=100.0 + number), trial, 1)
        late.flush()
    assert read_table(results, "trials").column("agent_s").to_pylist() == [111.0]


def test_an_empty_table_has_its_schema(tmp_path):
    results = stored(tmp_path, resolved_experiment(), snapshot())
    found = read_table(results, "verdicts")
    assert found.num_rows == 0
    assert found.schema.equals(TABLES["verdicts"].schema)


def test_an_unknown_table_is_an_error(whole):
    with pytest.raises(KeyError):
        read_table(whole.results, "trails")


# What the rows rest on


def test_the_first_completed_session_counts_and_later_ones_replicate():
    resolved = resolved_experiment(agents=scripted("a", "b"))
    planned, tree = resolved.tasks["t1"], hex_id("a")
    done = [journal("t1/a/attempt-1", patch(tree)), journal("t1/b/attempt-1", patch(hex_id("b")))]
    first = sessions_of(planned, done[:1], gains={f"tree-{tree[:12]}": math.log(3)})
    second = sessions_of(planned, done, gains={f"tree-{tree[:12]}": -1.0}, minute=5)
    pairs = verdicts_of(lock(resolved), snapshot(done, first + second))
    own = [v for v, j in pairs if j.agent == "a"]
    assert [(v.replication, v.vs_base) for v in own] == [(0, "faster"), (1, "slower")]
    assert [v.session_id for v in own] == [first[0].session_id, second[0].session_id]


def test_a_session_under_other_conditions_gives_no_verdict():
    old = resolved_experiment(agents=scripted("a"), measure={"margin_ratio": 0.2})
    new = resolved_experiment(agents=scripted("a"))
    done = [journal("t1/a/attempt-1", patch(hex_id("a")))]
    sessions = sessions_of(old.tasks["t1"], done)
    (pair,) = verdicts_of(lock(new), snapshot(done, sessions))
    assert pair[0].validity == "not_measured"
    (pair,) = verdicts_of(lock(old), snapshot(done, sessions))
    assert pair[0].session_id == sessions[0].session_id


def test_a_control_arm_with_the_humans_tree_is_no_verdict_on_a_later_oracle():
    resolved = resolved_experiment()
    early = [journal("t1/x/attempt-1", patch(hex_id("x")))]
    sessions = sessions_of(resolved.tasks["t1"], early)
    late = journal("t1/oracle/attempt-1", patch(human_tree()))
    (pair, _) = verdicts_of(lock(resolved), snapshot([late, *early], sessions))
    assert (pair[0].trial_id, pair[0].validity) == ("t1/oracle/attempt-1", "not_measured")


def test_a_state_for_each_trial_that_was_ever_planned(whole):
    states = trial_states(whole.lock, whole.snapshot)
    assert [s.trial.trial_id for s in states] == sorted(whole.resolved.trials)
    assert all(s.failure is None for s in states if s.journal is not None)


def test_rules_on_paths_hold_for_every_verdict_and_quarantine_where_they_are_enforced(tmp_path):
    ruled = task_row(target_files=["*.py"], protected_paths=["tests/"])
    changed = {"a": ("engine.py",), "b": ("engine.py", "NOTES.md"), "c": ("tests/test_engine.py",)}
    done = [
        journal(f"t1/{name}/attempt-1", patch(hex_id(name), files=files))
        for name, files in changed.items()
    ]
    gains = {f"tree-{hex_id(name)[:12]}": math.log(3) for name in changed}
    said = {}
    for enforce in ((), ("target_files",), ("protected_paths", "target_files")):
        resolved = resolved_experiment(
            ruled, agents=scripted(*changed), patch={"enforce": list(enforce)}
        )
        planned = resolved.tasks["t1"]
        twice = [s for n in (1, 5) for s in sessions_of(planned, done, gains=gains, minute=n)]
        what = snapshot(done, twice, [admission(planned)])
        pairs = verdicts_of(lock(resolved), what)
        assert [v.replication for v, _ in pairs] == [0, 1] * 3
        first, second = ([v for v, _ in pairs if v.replication == n] for n in (0, 1))
        said[enforce] = [str(v.validity) for v in first]
        assert [str(v.validity) for v in second] == said[enforce]
        assert [v.passed for v in first] == [v.validity == "ok" for v in first]
        assert [v.violations for v in first] == [
            (),
            ("outside target_files: NOTES.md",),
            ("in protected_paths: tests/test_engine.py",),
        ]
    assert said == {
        (): ["ok", "ok", "ok"],
        ("target_files",): ["ok", "quarantined", "ok"],
        ("protected_paths", "target_files"): ["ok", "quarantined", "quarantined"],
    }
    results = stored(tmp_path, resolved, what)
    rebuild(results, lock(resolved), what, 1)
    rows = _by(read_table(results, "verdicts").to_pylist(), "agent", "replication")
    assert rows["b", 1]["violations"] == ["outside target_files: NOTES.md"]
    assert rows["a", 0]["violations"] == []
