"""verify finds what is wrong, names it, and goes on looking."""

from __future__ import annotations

from pathlib import Path

from isobench_ray.audit import audit
from isobench_ray.dataset import rebuild
from isobench_ray.lock import read_lock
from isobench_ray.resolve import make_lock
from isobench_ray.results import Snapshot
from tests.builders import hex_id, journal, patch, resolved_experiment, scenario, scripted, snapshot


def audited(folder: Path):
    results = scenario(folder).results
    lock = read_lock(results)
    rebuild(results, lock, results.snapshot(), 1)
    return results, lock


def table_problems(results, lock) -> list[str]:
    """The scenario's journals are made up, without artifacts; what counts here are the tables."""
    return [problem for problem in audit(results, lock) if problem.startswith("table ")]


def test_tables_that_equal_the_records_are_no_problem(tmp_path):
    assert table_problems(*audited(tmp_path)) == []


def test_a_truncated_table_is_named_with_the_remedy_and_the_others_are_still_looked_at(tmp_path):
    results, lock = audited(tmp_path)
    for name in ("trials", "verdicts"):
        (part,) = Path(results.uri).glob(f"dataset/{name}/*.parquet")
        part.write_bytes(part.read_bytes()[:100])
    (part,) = Path(results.uri).glob("dataset/tasks/*.parquet")
    part.unlink()
    problems = table_problems(results, lock)
    assert len(problems) == 3
    assert all("isobench-ray dataset" in problem for problem in problems)


def test_a_planned_trial_that_was_never_started_can_be_taken_back():
    first = resolved_experiment(agents=scripted("a", "typo"))
    lock = make_lock(first, None, Snapshot({}, [], [], []))
    mended = resolved_experiment(agents=scripted("a", "b"))
    again = make_lock(mended, lock, Snapshot({}, [], [], []))
    assert {trial.agent for trial in again.trials} == {"a", "b"}


def test_a_trial_that_was_started_stays_planned_when_its_agent_leaves_the_experiment():
    first = resolved_experiment(agents=scripted("a", "gone"))
    lock = make_lock(first, None, Snapshot({}, [], [], []))
    done = snapshot([journal("t1/gone/attempt-1", patch(hex_id("x")))])
    again = make_lock(resolved_experiment(agents=scripted("a")), lock, done)
    assert {trial.agent for trial in again.trials} == {"a", "gone"}
    assert {agent.name for agent in again.agents} == {"a", "gone"}
