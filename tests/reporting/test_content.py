"""The report as data: counts that add up, rates that leave out what must be left out, advice."""

from __future__ import annotations

import json
import math

import pytest

from isobench_ray.errors import UserError
from isobench_ray.failure import POLICIES, FailureClass
from isobench_ray.planning import admission_plan, measure_plans, session_key
from isobench_ray.reporting.content import Report, build_report, verdict_word
from isobench_ray.results import WorkKey, open_results
from isobench_ray.trial import Outcome
from tests.builders import (
    NOP,
    admission,
    execution,
    hex_id,
    human_tree,
    journal,
    patch,
    resolved_experiment,
    scenario,
    scripted,
    session_record,
    sessions_of,
    snapshot,
    stored,
    task_row,
)


@pytest.fixture
def report(tmp_path):
    return build_report(scenario(tmp_path / "results").results)


def test_without_results_there_is_no_report(tmp_path):
    with pytest.raises(UserError, match=r"no Results here \(there is no lock\.json\)"):
        build_report(open_results(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_all_counts_add_up_to_planned(report):
    assert report.planned == len(report.trials) == 15
    assert report.counts == {"failure": 6, "patch": 5, "no_patch": 2, "open": 1, "timeout": 1}
    assert sum(report.counts.values()) == report.planned
    assert sum(line.planned for line in report.agents) == report.planned
    for line in report.agents:
        assert sum(line.outcomes.values()) == line.planned
    with_outcome = [line for line in report.trials if line.outcome is not None]
    assert sum(report.verdict_counts.values()) == len(with_outcome) == 8


def test_the_words_of_the_verdicts(report):
    assert report.verdict_counts == {
        "no_patch": 2,
        "passed (matches)": 1,
        "passed (beats)": 1,
        "incorrect": 1,
        "does_not_apply": 1,
        "not_scoreable": 2,
    }
    words = {t.trial_id: verdict_word(t.verdict) for t in report.trials if t.verdict}
    assert words["t1/fast/attempt-1"] == "passed (beats)"


def test_a_task_that_is_not_scoreable_is_in_no_rate(report):
    rates = {line.agent: (line.passed.count, line.passed.n) for line in report.agents}
    assert rates == {
        "nop": (0, 1), "oracle": (1, 1), "fast": (1, 1), "wrong": (0, 1), "stale": (0, 1),
    }  # fmt: skip


def test_a_gain_that_is_proven_but_within_the_margin_is_not_in_the_headline_rate(tmp_path):
    resolved = resolved_experiment(agents=[NOP])
    admissions = [admission(resolved.tasks["t1"], human_gain=0.03)]
    what = snapshot([journal("t1/nop/attempt-1")], (), admissions)
    report = build_report(stored(tmp_path, resolved, what))
    assert report.tasks[0].scoreable == "secondary"
    assert (report.agents[0].passed.n, report.agents[0].passed.low) == (0, None)


def test_a_trial_of_a_headline_task_that_failed_is_in_no_rate_and_counted_beside_it(tmp_path):
    """It says nothing about the agent; but who reads the rate must see how many are missing."""
    resolved = resolved_experiment(agents=scripted("a", "b"))
    planned = resolved.tasks["t1"]
    done = [journal("t1/a/attempt-1", patch(hex_id("a")))]
    failed = execution(WorkKey("trial", "t1/b/attempt-1"), 1, FailureClass.DISK_FULL)
    what = snapshot(done, sessions_of(planned, done), [admission(planned)], [failed])
    report = build_report(stored(tmp_path, resolved, what))
    assert {a.agent: (a.passed.n, a.without_verdict) for a in report.agents} == {
        "a": (1, 0),
        "b": (0, 1),
    }


def test_tasks_say_how_good_a_yardstick_they_are(report):
    good, flat, unknown = report.tasks
    assert good.scoreable == "headline"
    assert good.human_speedup is not None
    assert good.human_speedup.value == pytest.approx(2.0)
    assert good.human_speedup.low == pytest.approx(2.0 * math.exp(-0.01))
    assert good.aa_ratio is not None
    assert good.aa_ratio.value == pytest.approx(1.0)
    assert (flat.scoreable, flat.problem) == ("not_scoreable", None)
    assert (unknown.scoreable, unknown.problem) == (None, "commit_unknown: no such commit")


def test_failures_are_listed_by_class_with_whom_to_blame_and_what_to_do(report):
    by_class = {line.failure_class: line for line in report.failures}
    assert sorted(by_class) == ["commit_unknown", "disk_full"]
    disk = by_class["disk_full"]
    assert disk.work == ("t2/wrong/attempt-1",)
    assert disk.advice == POLICIES[FailureClass.DISK_FULL].advice
    assert disk.blame == "infrastructure"
    assert len(by_class["commit_unknown"].work) == 5


def test_executions_that_yielded_nothing_are_listed_each(report):
    found = {(e.work_id, e.execution): e.failure_class for e in report.lost_executions}
    assert found == {
        ("t2/wrong/attempt-1", 1): "worker_died",
        ("t2/wrong/attempt-1", 2): "disk_full",
        ("t2/stale/attempt-1", 1): "running or lost",
    }


def test_an_admission_that_failed_is_a_failure_and_a_problem_of_its_task(tmp_path):
    resolved = resolved_experiment(agents=scripted("a"))
    plan = admission_plan(resolved.tasks["t1"])
    assert plan is not None
    failed = execution(session_key(plan), 1, FailureClass.BASE_CHECK_FAILED)
    done = [journal("t1/a/attempt-1", patch(hex_id("a")))]
    report = build_report(stored(tmp_path, resolved, snapshot(done, (), (), [failed])))
    (line,) = report.failures
    assert line.failure_class == "base_check_failed"
    assert report.tasks[0].problem == "base_check_failed: it was base_check_failed"
    assert report.trials[0].verdict is not None
    assert report.trials[0].verdict.reason == "base_check_failed: it was base_check_failed"
    assert report.state == "partial"


def test_a_failure_that_was_repaired_does_not_stand(tmp_path):
    resolved = resolved_experiment(agents=[NOP])
    key = WorkKey("trial", "t1/nop/attempt-1")
    executions = [
        execution(key, 1, FailureClass.DISK_FULL), execution(key, 2, outcome=Outcome.NO_PATCH),
    ]  # fmt: skip
    what = snapshot([journal(key.work_id, execution=2)], (), (), executions)
    report = build_report(stored(tmp_path, resolved, what))
    assert report.failures == ()
    assert [(e.execution, e.failure_class) for e in report.lost_executions] == [(1, "disk_full")]


def test_a_failure_under_conditions_that_were_mended_does_not_stand(tmp_path):
    """The advice is to mend the check; who did must not be told so, or exit 1, for ever."""
    broken = resolved_experiment(task_row(check={"command": "false"}), agents=[NOP])
    mended = resolved_experiment(task_row(check={"command": "true"}), agents=[NOP])
    plan = admission_plan(broken.tasks["t1"])
    assert plan is not None
    failed = execution(session_key(plan), 1, FailureClass.BASE_CHECK_FAILED)
    admissions = [admission(mended.tasks["t1"])]
    what = snapshot([journal("t1/nop/attempt-1")], (), admissions, [failed])
    report = build_report(stored(tmp_path, mended, what))
    assert report.tasks[0].scoreable == "headline"
    assert report.failures == ()
    assert len(report.lost_executions) == 1


def test_a_session_that_failed_does_not_stand_once_its_trees_were_measured_in_another(tmp_path):
    """Trees that come later change the session's id: the old one is never planned again."""
    resolved = resolved_experiment(agents=scripted("a", "b"))
    planned = resolved.tasks["t1"]
    done = [journal(f"t1/{name}/attempt-1", patch(hex_id(name))) for name in "ab"]
    (old,) = measure_plans(planned, done[:1], snapshot())
    failed = execution(session_key(old), 1, FailureClass.WORKER_DIED)
    what = snapshot(done, sessions_of(planned, done), [admission(planned)], [failed])
    report = build_report(stored(tmp_path, resolved, what))
    assert report.state == "complete"
    assert report.failures == ()


def test_the_observed_error_rates_are_printed(report):
    assert (report.noise.aa.count, report.noise.aa.n) == (0, 4)
    assert report.noise.unpassable_passed == 0


def test_a_control_that_differs_from_itself_is_counted(tmp_path):
    resolved = resolved_experiment(agents=[NOP])
    plan = admission_plan(resolved.tasks["t1"])
    assert plan is not None
    noisy = session_record(plan, gains={"base2": 0.1})
    what = snapshot([journal("t1/nop/attempt-1")], (), [noisy])
    report = build_report(stored(tmp_path, resolved, what))
    assert (report.noise.aa.count, report.noise.aa.n) == (1, 1)


def test_replications_are_shown_and_do_not_count(tmp_path):
    resolved = resolved_experiment(agents=scripted("a", "b"))
    planned = resolved.tasks["t1"]
    done = [journal(f"t1/{name}/attempt-1", patch(hex_id(name))) for name in "ab"]
    arm = f"tree-{hex_id('a')[:12]}"
    first = sessions_of(planned, done[:1], gains={arm: math.log(3)})
    later = sessions_of(planned, done, gains={arm: -1.0}, minute=5)
    what = snapshot(done, first + later, [admission(planned)])
    report = build_report(stored(tmp_path, resolved, what))
    line = report.trials[0]
    assert (line.replications, line.verdict.passed if line.verdict else None) == (1, True)


@pytest.mark.parametrize(("solved", "measured", "state"), [
    (False, False, "partial"), (True, False, "partial"), (True, True, "complete"),
])  # fmt: skip
def test_complete_means_an_outcome_and_where_due_a_session_for_every_trial(
    tmp_path, solved, measured, state
):
    resolved = resolved_experiment(agents=[{"name": "oracle", "kind": "oracle"}])
    planned = resolved.tasks["t1"]
    done = [journal("t1/oracle/attempt-1", patch(human_tree()))] if solved else []
    sessions = sessions_of(planned, done) if measured else []
    what = snapshot(done, sessions, [admission(planned)])
    assert build_report(stored(tmp_path, resolved, what)).state == state


def test_costs_that_nobody_knows_are_null_and_not_zero(tmp_path):
    resolved = resolved_experiment(agents=[NOP])
    unknown = journal("t1/nop/attempt-1").model_copy(
        update={"usage": type(journal("t1/nop/attempt-1").usage)()}
    )
    report = build_report(stored(tmp_path / "unknown", resolved, snapshot([unknown])))
    assert report.cost_usd is None
    known = snapshot([journal("t1/nop/attempt-1")])
    assert build_report(stored(tmp_path / "known", resolved, known)).cost_usd == 0.25


def test_the_json_form_reads_back_and_has_no_nan(report):
    text = report.to_json().decode()
    assert Report.model_validate_json(text) == report
    assert json.loads(text, parse_constant=pytest.fail)["planned"] == 15
