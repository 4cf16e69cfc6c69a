"""Results: one record per piece of work whoever comes second, and every execution accounted for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from isobench_ray.errors import RecordError
from isobench_ray.failure import Failure, FailureClass
from isobench_ray.results import Results, WorkKey, open_results
from isobench_ray.schema import sha256_hex
from isobench_ray.trial import ExecutionClaim, ExecutionEnd, Outcome, TrialRecord
from tests import builders

TRIAL = "t1/nop/attempt-1"
KEY = WorkKey("trial", TRIAL)


def claim(number: int, key: WorkKey = KEY) -> ExecutionClaim:
    return builders.execution(key, number).claim


def publish(results: Results, number: int, folder: Path, key: WorkKey = KEY) -> bool:
    """What a worker does at the end of a trial: artifacts, then the end, then the record."""
    artifacts = results.store_artifacts(key, number, folder)
    end = ExecutionEnd(outcome=Outcome.NO_PATCH, ended_at=builders.NOON, artifacts=artifacts)
    record = builders.journal(key.work_id, execution=number, artifacts=artifacts)
    return results.publish(key, number, end, record)


def scratch(folder: Path, text: str) -> Path:
    (folder / "deep").mkdir(parents=True)
    (folder / "prompt.md").write_text(f"prompt of {text}")
    (folder / "model_patch.diff").write_text(f"patch of {text}")
    (folder / "deep" / "notes.txt").write_text(f"notes of {text}")
    return folder


@pytest.fixture
def results(tmp_path) -> Results:
    return open_results(tmp_path / "results")


def test_opening_creates_nothing(tmp_path):
    results = open_results(tmp_path / "results")
    assert results.trial_records() == []
    assert results.executions() == []
    assert results.trial_record(TRIAL) is None
    assert not (tmp_path / "results").exists()


def test_an_execution_is_claimed_once(results):
    assert results.claim(KEY, claim(1))
    assert not results.claim(KEY, claim(1))
    assert results.claim(KEY, claim(2))


def test_finished_work_cannot_be_claimed_again(results, tmp_path):
    assert results.claim(KEY, claim(1))
    publish(results, 1, scratch(tmp_path / "a", "a"))
    assert not results.claim(KEY, claim(2))
    other = WorkKey("trial", "t1/nop/attempt-2")
    assert results.claim(other, claim(1, other))


def test_a_published_trial_reads_back_equal(results, tmp_path):
    results.claim(KEY, claim(1))
    assert publish(results, 1, scratch(tmp_path / "a", "a"))
    record = results.trial_record(TRIAL)
    assert record == builders.journal(TRIAL, artifacts=record.artifacts)
    assert results.trial_records() == [record]
    contents = {a.name: results.artifact(KEY, 1, a) for a in record.artifacts}
    assert contents["deep/notes.txt"] == b"notes of a"
    assert sorted(contents) == ["deep/notes.txt", "model_patch.diff", "prompt.md"]


def test_whoever_publishes_second_loses_and_overwrites_nothing(results, tmp_path):
    results.claim(KEY, claim(1))
    results.claim(KEY, claim(2))
    assert publish(results, 2, scratch(tmp_path / "second", "the quicker"))
    folder = tmp_path / "results" / "trials" / TRIAL
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert not publish(results, 1, scratch(tmp_path / "first", "the zombie"))
    assert results.trial_record(TRIAL).execution == 2
    assert {p: p.read_bytes() for p in before} == before
    assert (folder / "prompt.md").read_text() == "prompt of the quicker"
    ends = {e.number: e.end for e in results.executions()}
    assert ends[1] is not None  # its own end is told, though it does not count
    assert len(results.trial_records()) == 1


def test_a_failure_ends_the_execution_without_a_record(results):
    results.claim(KEY, claim(1))
    failure = Failure(failure_class=FailureClass.WORKER_DIED, message="killed")
    end = ExecutionEnd(failure=failure, ended_at=builders.NOON)
    assert results.publish(KEY, 1, end, None)
    assert results.trial_record(TRIAL) is None
    assert results.claim(KEY, claim(2))
    (first, second) = results.executions()
    assert first.end.failure.failure_class is FailureClass.WORKER_DIED
    assert second.end is None


def test_all_executions_are_listed_the_lost_ones_without_an_end(results, tmp_path):
    session = WorkKey("session", "t1/0123456789abcdef")
    results.claim(KEY, claim(1))  # lost: its worker was killed
    results.claim(KEY, claim(2))
    results.claim(session, claim(1, session))
    publish(results, 2, scratch(tmp_path / "a", "a"))
    found = {(e.key, e.number): e.end is not None for e in results.executions()}
    assert found == {(KEY, 1): False, (KEY, 2): True, (session, 1): False}
    assert results.snapshot().executions == results.executions()


def test_a_number_above_nine_does_not_hide_among_the_others(results):
    for number in range(1, 13):
        results.claim(KEY, claim(number))
    assert [e.number for e in results.executions()] == list(range(1, 13))


def test_a_torn_last_line_of_a_log_is_left_out(results):
    results.append_line("events/1.jsonl", {"n": 1})
    results.append_line("events/1.jsonl", {"n": 2})
    results.store.append("events/1.jsonl", b'{"n": 3, "kil')
    assert results.read_lines("events/1.jsonl") == [{"n": 1}, {"n": 2}]
    assert results.read_lines("events/absent.jsonl") == []


def test_a_line_after_a_torn_one_is_not_lost_with_it(results):
    results.append_line("invocations.jsonl", {"n": 1})
    results.store.append("invocations.jsonl", b'{"n": 2, "kil')
    results.append_line("invocations.jsonl", {"n": 3})
    assert results.read_lines("invocations.jsonl") == [{"n": 1}, {"n": 3}]


def test_a_changed_or_missing_artifact_is_a_record_error_with_its_path(results, tmp_path):
    results.claim(KEY, claim(1))
    publish(results, 1, scratch(tmp_path / "a", "a"))
    artifact = next(a for a in results.trial_record(TRIAL).artifacts if a.name == "prompt.md")
    assert artifact.sha256 == sha256_hex(results.artifact(KEY, 1, artifact))
    place = tmp_path / "results" / "trials" / TRIAL / "executions" / "1" / "prompt.md"
    place.write_text("prompt of b")
    with pytest.raises(RecordError, match=r"prompt\.md: does not have the recorded hash"):
        results.artifact(KEY, 1, artifact)
    place.unlink()
    with pytest.raises(RecordError, match=r"prompt\.md: is missing"):
        results.artifact(KEY, 1, artifact)


def test_a_record_that_does_not_parse_is_a_record_error_with_its_path(results, tmp_path):
    results.claim(KEY, claim(1))
    publish(results, 1, scratch(tmp_path / "a", "a"))
    journal = tmp_path / "results" / KEY.record
    journal.write_bytes(journal.read_bytes()[:100])
    with pytest.raises(RecordError, match=rf"{KEY.record}: not a TrialRecord"):
        results.trial_record(TRIAL)
    with pytest.raises(RecordError, match=KEY.record):
        results.snapshot()


def test_a_record_of_a_newer_version_with_more_fields_is_read(results):
    row = json.loads(builders.journal(TRIAL).to_json()) | {"a_later_field": 1}
    results.store.put(KEY.record, json.dumps(row).encode())
    assert results.trial_record(TRIAL) == builders.journal(TRIAL)


def test_an_agents_file_named_like_a_record_is_no_record(results, tmp_path):
    folder = scratch(tmp_path / "a", "a")
    (folder / "journal.json").write_text("{}")
    (folder / "deep" / "journal.json").write_text("{}")
    results.claim(KEY, claim(1))
    publish(results, 1, folder)
    assert [r.trial_id for r in results.trial_records()] == [TRIAL]
    assert [(e.key, e.number) for e in results.executions()] == [(KEY, 1)]


def test_the_well_known_names_beside_a_journal_are_links_that_can_be_restored(results, tmp_path):
    results.claim(KEY, claim(1))
    publish(results, 1, scratch(tmp_path / "a", "a"))
    folder = tmp_path / "results" / "trials" / TRIAL
    assert (folder / "model_patch.diff").read_text() == "patch of a"
    (folder / "model_patch.diff").unlink()
    (folder / "prompt.md").unlink()
    record = results.trial_record(TRIAL)
    results.restore_links(KEY, record.execution, [a.name for a in record.artifacts])
    assert (folder / "model_patch.diff").read_text() == "patch of a"
    assert (folder / "prompt.md").is_symlink()
    assert not (folder / "notes.txt").exists()


def test_a_link_that_an_agent_left_is_not_followed_into_the_artifacts(results, tmp_path):
    (tmp_path / "secret").write_text("key of the harness")
    folder = scratch(tmp_path / "a", "a")
    (folder / "stolen").symlink_to(tmp_path / "secret")
    stored = results.store_artifacts(KEY, 1, folder)
    assert "stolen" not in [a.name for a in stored]
    assert len(stored) == 3


def test_a_refreshed_snapshot_equals_a_new_one(results, tmp_path):
    session = WorkKey("session", "t1/0123456789abcdef")
    snapshot = results.snapshot()
    results.claim(KEY, claim(1))
    publish(results, 1, scratch(tmp_path / "a", "a"))
    results.claim(session, claim(1, session))
    assert snapshot != results.snapshot()
    for key in (KEY, session):
        snapshot = results.refreshed(snapshot, key)
    assert snapshot == results.snapshot()
    assert isinstance(snapshot.journals[TRIAL], TrialRecord)


def test_a_zombie_whose_execution_was_taken_for_lost_publishes_nothing(results, tmp_path):
    results.claim(KEY, claim(1))
    lost = builders.execution(KEY, 1, FailureClass.DRIVER_DIED).end
    assert results.publish(KEY, 1, lost, None)
    assert not publish(results, 1, scratch(tmp_path / "zombie", "zombie"))
    assert results.trial_record(TRIAL) is None
    results.claim(KEY, claim(2))
    assert publish(results, 2, scratch(tmp_path / "second", "second"))
    assert results.trial_record(TRIAL).execution == 2
