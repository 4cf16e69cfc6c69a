"""The report as Markdown: tables that stay tables, and everything a reader must not miss."""

from __future__ import annotations

import re

import pytest

from isobench_ray.failure import POLICIES, FailureClass
from isobench_ray.reporting.content import Report, build_report
from isobench_ray.reporting.markdown import render_markdown
from isobench_ray.trial import SandboxFacts
from tests.builders import NOP, journal, resolved_experiment, scenario, snapshot, stored


@pytest.fixture
def report(tmp_path):
    return build_report(scenario(tmp_path / "results").results)


def _tables(text: str) -> list[list[list[str]]]:
    """All Markdown tables as rows of cells; a pipe after a backslash is part of a cell."""
    tables: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|"), line
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            tables[-1].append([cell.strip() for cell in cells])
        elif tables[-1]:
            tables.append([])
    return [table for table in tables if table]


def _with_detail(report: Report, detail: str) -> Report:
    first = report.trials[0].model_copy(update={"outcome_detail": detail})
    return report.model_copy(update={"trials": (first, *report.trials[1:])})


def test_every_table_is_well_formed(report):
    tables = _tables(render_markdown(report))
    assert len(tables) == 5
    for head, rule, *rows in tables:
        assert all(set(cell) == {"-"} for cell in rule), rule
        assert {len(row) for row in (rule, *rows)} == {len(head)}
        assert rows


@pytest.mark.parametrize(
    "detail", ["a | b", "two\nlines", "a\r\nb", "|", "x || y", "ends with \\", "a \\| b"]
)
def test_no_word_of_an_agent_breaks_a_table(report, detail):
    plain = _tables(render_markdown(report))
    tables = _tables(render_markdown(_with_detail(report, detail)))
    assert [len(table) for table in tables] == [len(table) for table in plain]
    for head, *rows in tables:
        assert {len(row) for row in rows} == {len(head)}


def test_what_a_patch_changes_against_a_rule_is_a_remark_that_is_not_said_twice(report):
    number, line = next((n, x) for n, x in enumerate(report.trials) if x.verdict is not None)
    broken = ("outside target_files: a.py", "outside target_files: b.py")

    def remark(reason: str | None) -> str:
        verdict = line.verdict.model_copy(update={"violations": broken, "reason": reason})
        trials = [*report.trials]
        trials[number] = line.model_copy(update={"verdict": verdict, "outcome_detail": None})
        table = next(
            t for t in _tables(render_markdown(report.model_copy(update={"trials": tuple(trials)})))
            if t[0][-1] == "remark"
        )  # fmt: skip
        return table[number + 2][-1]

    assert remark(None) == "outside target_files: a.py and 1 more"
    assert remark(broken[0]) == f"{broken[0]}; {broken[1]}"


def test_every_planned_trial_is_a_row(report):
    text = render_markdown(report)
    trials = next(t for t in _tables(text) if t[0][:2] == ["task", "agent"])
    assert [(row[0], row[1]) for row in trials[2:]] == [(t.task_id, t.agent) for t in report.trials]


def test_the_head_says_state_and_counts_that_add_up(report):
    line = render_markdown(report).splitlines()[2]
    found = re.fullmatch(r"\*\*partial\*\* - (\d+) planned trials = (.*)\.", line)
    assert found is not None
    assert sum(int(n) for n in re.findall(r"\d+", found[2])) == int(found[1]) == 15


def test_failures_come_with_advice(report):
    text = render_markdown(report)
    assert "- **disk_full** (infrastructure), 1: t2/wrong/attempt-1" in text
    assert f"-> {POLICIES[FailureClass.DISK_FULL].advice}" in text
    assert "## Executions that yielded no record" in text


def test_a_task_that_is_not_scoreable_is_marked(report):
    text = render_markdown(report)
    assert "**no**: gain not proven here" in text
    assert "commit_unknown: no such commit" in text


def test_the_published_rule_stands_in_a_column_of_its_own_labelled(report):
    trials = next(t for t in _tables(render_markdown(report)) if t[0][:2] == ["task", "agent"])
    assert "ISO-Bench's rule" in trials[0]
    fast = next(row for row in trials if row[:2] == ["t1", "fast"])
    assert fast[3] == "passed (beats)"
    assert fast[trials[0].index("ISO-Bench's rule")] == "beats"


def test_what_the_words_mean_and_the_error_rates_are_in_the_report(report):
    text = render_markdown(report)
    assert "## How to read it" in text
    assert "0 of 4 intervals leave out 1" in text
    assert "`nop` trials that passed: 0 (must be 0)" in text


def test_running_without_a_sandbox_is_said_and_only_then(report, tmp_path):
    assert "No sandbox" not in render_markdown(report)
    open_air = journal("t1/nop/attempt-1", sandbox=SandboxFacts(mechanism="none", network="open"))
    results = stored(tmp_path / "open", resolved_experiment(agents=[NOP]), snapshot([open_air]))
    assert "> **No sandbox**" in render_markdown(build_report(results))


def test_results_without_any_record_are_a_report_as_well(tmp_path):
    results = stored(tmp_path, resolved_experiment(), snapshot())
    text = render_markdown(build_report(results))
    assert "2 planned trials = 2 open" in text
    assert "Cost: unknown" in text
    for head, *rows in _tables(text):
        assert {len(row) for row in rows} == {len(head)}
