"""The report as Markdown: for a terminal, a pull request, or a colleague."""

from __future__ import annotations

from isobench_ray.reporting.content import Interval, Rate, Report, TaskLine, TrialLine, verdict_word
from isobench_ray.session import Scoreable

_READING = """\
## How to read it

Ratios above 1 are faster; brackets hold 95 % intervals. *passed*: correct, faster than base, and
not slower than the human's patch by more than the margin with at least half of its gain kept, each
proven by an interval. *quarantined*: right and measured, but against a rule that the experiment
enforces (the remark says which). Tasks that are not scoreable are in no rate. *ISO-Bench's rule* is
the published rule on the same numbers: one comparison of means with the human's, 5 % band; it is no
verdict of ours.
"""
_NO_SANDBOX = """
> **No sandbox**: agents and measured code ran without containment (`sandbox.kind: none`). Right
> only for agents that you trust.
"""
SCOREABLE_WORDS = {
    Scoreable.HEADLINE: "yes",
    Scoreable.SECONDARY: "gain proven, but within the margin",
    Scoreable.NOT_SCOREABLE: "**no**: gain not proven here",
    None: "not known yet",
}


def render_markdown(report: Report) -> str:
    """The whole report."""
    sections = [
        _head(report),
        _agents(report),
        _verdicts(report),
        _tasks(report),
        _trials(report),
        _failures(report),
        _noise(report),
        _READING,
    ]
    return "\n".join(section for section in sections if section)


def _head(report: Report) -> str:
    counts = ", ".join(f"{n} {word}" for word, n in report.counts.items())
    times = f"Agents ran {report.solve_s:.0f} s, measuring took {report.measure_s:.0f} s."
    text = (
        f"# {report.name}\n\n"
        f"**{report.state}** - {report.planned} planned trials = {counts}.\n"
        f"Margin {report.margin_ratio:.0%}. {times} Cost: {_dollars(report.cost_usd)}.\n"
        f"Results: `{report.results}` (isobench-ray {report.code_version}).\n"
    )
    return text + (_NO_SANDBOX if "none" in report.sandboxes else "")


def _agents(report: Report) -> str:
    rows = [
        [
            line.agent,
            str(line.planned),
            ", ".join(f"{n} {word}" for word, n in line.outcomes.items()),
            _rate(line.passed),
            str(line.without_verdict),
        ]
        for line in report.agents
    ]
    heads = ["agent", "trials", "outcomes", "passed, on headline tasks (95 %)", "no verdict there"]
    return f"## Agents\n\n{_table(heads, rows)}"


def _verdicts(report: Report) -> str:
    rows = [[word, str(n)] for word, n in sorted(report.verdict_counts.items())]
    total = sum(report.verdict_counts.values())
    rows.append(["all trials with an outcome", str(total)])
    return f"## Verdicts\n\n{_table(['verdict', 'trials'], rows)}"


def _tasks(report: Report) -> str:
    rows = [
        [
            task.task_id,
            _ratio(task.human_speedup),
            _ratio(task.aa_ratio),
            _scoreable(task),
        ]
        for task in report.tasks
    ]
    heads = ["task", "human's speed-up", "base again (A/A)", "scoreable"]
    return (
        "## Tasks\n\nMeasured in admission sessions of their own; not the sessions that score.\n\n"
        f"{_table(heads, rows)}"
    )


def _scoreable(task: TaskLine) -> str:
    """Whether the task counts, and if not, why."""
    speedup = task.human_speedup
    if task.problem is None and speedup is not None and speedup.high < 1:
        return "**no**: the human's commit is slower here"
    return task.problem or SCOREABLE_WORDS[task.scoreable]


def _trials(report: Report) -> str:
    rows = [_trial_row(line) for line in report.trials]
    heads = [
        "task", "agent", "outcome", "verdict", "speed-up over base", "relative to human",
        "ISO-Bench's rule", "remark",
    ]  # fmt: skip
    return f"## Trials\n\n{_table(heads, rows)}"


def _trial_row(line: TrialLine) -> list[str]:
    verdict = line.verdict
    agent = (
        line.agent
        if line.trial_id.endswith("/attempt-1")
        else (f"{line.agent} #{line.trial_id.rsplit('-', 1)[1]}")
    )
    outcome = str(line.outcome or line.failure_class or "open")
    if verdict is None:
        return [line.task_id, agent, outcome, "-", "-", "-", "-", line.outcome_detail or ""]
    human = _span(verdict.ratio_to_human, verdict.ratio_to_human_low, verdict.ratio_to_human_high)
    remarks = [line.outcome_detail, verdict.reason and verdict.reason.splitlines()[0]]
    broken = [words for words in verdict.violations if words != verdict.reason]
    if broken:
        remarks.append(f"{broken[0]}{f' and {len(broken) - 1} more' if broken[1:] else ''}")
    if line.replications:
        remarks.append(f"{line.replications} replication(s), not counted")
    return [
        line.task_id,
        agent,
        outcome,
        verdict_word(verdict),
        _span(verdict.speedup, verdict.speedup_low, verdict.speedup_high),
        "same tree" if verdict.same_tree_as else human,
        verdict.legacy_isobench or "-",
        "; ".join(remark for remark in remarks if remark),
    ]


def _failures(report: Report) -> str:
    parts = []
    if report.failures:
        parts.append("## Failures\n\nThey say nothing about the agents.\n")
        parts += [
            f"- **{line.failure_class}** ({line.blame}), {len(line.work)}: "
            f"{', '.join(line.work[:5])}{' ...' if len(line.work) > 5 else ''}\n"
            f"  {line.message}\n  -> {line.advice}\n"
            for line in report.failures
        ]
    if report.lost_executions:
        parts.append("## Executions that yielded no record\n")
        rows = [
            [f"{e.work} {e.work_id}", str(e.execution), e.failure_class, _dollars(e.cost_usd)]
            for e in report.lost_executions
        ]
        parts.append(_table(["work", "execution", "why", "spent"], rows))
    return "\n".join(parts)


def _noise(report: Report) -> str:
    aa = report.noise.aa
    return (
        "## Error rates observed\n\n"
        f"- base against base again (A/A): {aa.count} of {aa.n} intervals leave out 1; "
        f"5 % are expected ({_rate(aa)}).\n"
        f"- `nop` trials that passed: {report.noise.unpassable_passed} (must be 0).\n"
    )


def _table(heads: list[str], rows: list[list[str]]) -> str:
    cells = [[" ".join(cell.splitlines()).replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[n]) for row in [heads, *cells]) for n in range(len(heads))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [heads, *cells]
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def _ratio(interval: Interval | None) -> str:
    return "-" if interval is None else _span(interval.value, interval.low, interval.high)


def _span(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _rate(rate: Rate) -> str:
    if rate.low is None or rate.high is None:
        return "-"
    return f"{rate.count}/{rate.n} = {rate.count / rate.n:.0%} [{rate.low:.0%}, {rate.high:.0%}]"


def _dollars(amount: float | None) -> str:
    return "unknown" if amount is None else f"${amount:.2f}"
