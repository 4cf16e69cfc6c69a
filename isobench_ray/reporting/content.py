"""What a report says, as data: built from records alone, printed as JSON or rendered as text."""

from __future__ import annotations

import math
from collections import Counter
from typing import Literal

from isobench_ray.cluster.lease import is_alive, read_driver
from isobench_ray.errors import UserError
from isobench_ray.lock import Lock, read_lock
from isobench_ray.planning import latest_executions
from isobench_ray.results import Results, Snapshot
from isobench_ray.schema import RecordModel
from isobench_ray.session import BASE2, HUMAN, ArmResult, Scoreable, SessionRecord
from isobench_ray.standing import TrialState, trial_states, verdicts_of
from isobench_ray.statistics import Contrast, wilson_interval
from isobench_ray.trial import Outcome
from isobench_ray.verdict import Validity, Verdict, VsBase


class Interval(RecordModel):
    """A ratio with its 95 % interval."""

    value: float
    """Point estimate."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""


class Rate(RecordModel):
    """A count out of n with its 95 % Wilson interval."""

    count: int
    """How many."""
    n: int
    """Out of how many."""
    low: float | None
    """Lower end; null for n = 0."""
    high: float | None
    """Upper end; null for n = 0."""


class TaskLine(RecordModel):
    """What is known about a task as a yardstick."""

    task_id: str
    """The task."""
    scoreable: Scoreable | None
    """What the admission decided; null while there is none."""
    human_speedup: Interval | None
    """The human's speed-up in the admission session."""
    aa_ratio: Interval | None
    """base2 over base in the admission session: 1 but for noise."""
    problem: str | None
    """Why it cannot be used."""


class TrialLine(RecordModel):
    """One planned trial."""

    trial_id: str
    """The trial."""
    task_id: str
    """Its task."""
    agent: str
    """Its agent."""
    outcome: Outcome | None
    """Null while there is none."""
    outcome_detail: str | None
    """The outcome in words."""
    failure_class: str | None
    """Why there is no outcome."""
    executions: int
    """Executions so far."""
    agent_s: float | None
    """Seconds of the agent's process."""
    cost_usd: float | None
    """Null when unknown."""
    verdict: Verdict | None
    """The verdict that counts; null without an outcome."""
    replications: int
    """Later sessions that measured the same tree again."""


class AgentLine(RecordModel):
    """One agent over its tasks."""

    agent: str
    """The agent."""
    planned: int
    """Planned trials."""
    outcomes: dict[str, int]
    """Trials by outcome; `failure` and `open` for those without."""
    passed: Rate
    """Passed, over the trials on tasks of the headline set that have a verdict."""
    without_verdict: int
    """Trials on those tasks without one: failures, open, or not measured. They are in no rate."""


class FailureLine(RecordModel):
    """Failures of one class."""

    failure_class: str
    """The class."""
    blame: str
    """Who can mend it."""
    advice: str
    """What to do."""
    work: tuple[str, ...]
    """What it hit, as it stands now."""
    message: str
    """The words of one of them."""


class LostExecution(RecordModel):
    """An execution that ended without an outcome."""

    work: str
    """trial, session or admission."""
    work_id: str
    """Its id."""
    execution: int
    """Its number."""
    failure_class: str
    """Why; `running or lost` while no end is recorded."""
    cost_usd: float | None
    """Dollars that it spent; null when unknown."""


class NoiseRates(RecordModel):
    """How often noise looked like something, in these Results."""

    aa: Rate
    """Contrasts of base2 against base whose interval leaves 0 out; 5 % are expected."""
    unpassable_passed: int
    """Trials of `nop` agents that passed: must be 0."""


class Report(RecordModel):
    """A report as data; the JSON form of `isobench-ray report`."""

    schema_version: int = 1
    """Version of this form."""
    name: str
    """The experiment."""
    results: str
    """Where Results lie."""
    state: Literal["complete", "partial", "running"]
    """complete: every planned trial has an outcome and a verdict from a session where due."""
    code_version: str
    """Version of isobench-ray."""
    margin_ratio: float
    """The margin delta."""
    sandboxes: tuple[str, ...]
    """Mechanisms that contained agents and arms."""
    planned: int
    """Planned trials; all counts add up to it."""
    counts: dict[str, int]
    """Trials by outcome; `failure` and `open` for those without."""
    verdict_counts: dict[str, int]
    """Trials with an outcome, by the word of their verdict."""
    tasks: tuple[TaskLine, ...]
    """Tasks."""
    agents: tuple[AgentLine, ...]
    """Agents."""
    trials: tuple[TrialLine, ...]
    """Trials."""
    failures: tuple[FailureLine, ...]
    """Failures as they stand now."""
    lost_executions: tuple[LostExecution, ...]
    """Executions that were started and yielded no record."""
    noise: NoiseRates
    """Error rates observed."""
    solve_s: float
    """Sum of the seconds of solve executions that counted."""
    measure_s: float
    """Sum of the seconds of sessions and admissions."""
    cost_usd: float | None
    """Sum over trials whose cost is known; null when none is."""


def build_report(results: Results) -> Report:
    """Build the report of Results.

    Raises:
        UserError: there are no Results.
        RecordError: a record does not parse.
    """
    lock = require_lock(results)
    snapshot = results.snapshot()
    states = trial_states(lock, snapshot)
    verdicts = verdicts_of(lock, snapshot)
    trials = tuple(_trial_line(state, [v for v, _ in verdicts]) for state in states)
    tasks = tuple(_task_line(task.task_id, lock, snapshot) for task in lock.tasks)
    counting = [line.verdict for line in trials if line.verdict is not None]
    costs = [line.cost_usd for line in trials if line.cost_usd is not None]
    return Report(
        name=lock.name,
        results=results.uri,
        state=_state(results, trials),
        code_version=lock.code_version,
        margin_ratio=lock.analysis.margin_ratio,
        sandboxes=tuple(sorted(_sandboxes(snapshot))),
        planned=len(states),
        counts=_counts(trials),
        verdict_counts=dict(Counter(verdict_word(verdict) for verdict in counting)),
        tasks=tasks,
        agents=tuple(_agent_line(agent.name, trials, tasks) for agent in lock.agents),
        trials=trials,
        failures=_failures(snapshot, states, tasks, trials),
        lost_executions=_lost(snapshot),
        noise=_noise(lock, snapshot, trials),
        solve_s=math.fsum(s.journal.agent_s for s in states if s.journal),
        measure_s=math.fsum(s.duration_s for s in (*snapshot.admissions, *snapshot.sessions)),
        cost_usd=math.fsum(costs) if costs else None,
    )


def require_lock(results: Results) -> Lock:
    """The lock of Results.

    Raises:
        UserError: there is none.
    """
    lock = read_lock(results)
    if lock is None:
        raise UserError(f"{results.uri}: no Results here (there is no lock.json)")
    return lock


def verdict_word(verdict: Verdict) -> str:
    """A verdict in one or two words, for tables."""
    if verdict.validity is not Validity.OK:
        return str(verdict.validity)
    if verdict.passed:
        return f"passed ({verdict.vs_human})"
    if verdict.vs_base is VsBase.FASTER:
        return f"faster, {verdict.vs_human}"
    return str(verdict.vs_base)


def interval_of(contrast: Contrast | None) -> Interval | None:
    """A contrast of logarithms as a ratio."""
    if contrast is None:
        return None
    return Interval(
        value=math.exp(contrast.mean), low=math.exp(contrast.low), high=math.exp(contrast.high)
    )


def _counts(trials: tuple[TrialLine, ...]) -> dict[str, int]:
    words = Counter(
        str(line.outcome or ("failure" if line.failure_class else "open")) for line in trials
    )
    return dict(sorted(words.items(), key=lambda pair: (-pair[1], pair[0])))


def _rate(count: int, n: int) -> Rate:
    interval = wilson_interval(count, n) or (None, None)
    return Rate(count=count, n=n, low=interval[0], high=interval[1])


def _state(
    results: Results, trials: tuple[TrialLine, ...]
) -> Literal["complete", "partial", "running"]:
    driver = read_driver(results)
    if driver is not None and driver.ended_at is None and is_alive(results, driver):
        return "running"
    settled = all(
        line.verdict is not None and line.verdict.validity is not Validity.NOT_MEASURED
        for line in trials
    )
    return "complete" if settled else "partial"


def _sandboxes(snapshot: Snapshot) -> set[str]:
    sessions = (*snapshot.admissions, *snapshot.sessions)
    facts = [journal.sandbox for journal in snapshot.journals.values()]
    return {found.mechanism for found in (*facts, *(session.sandbox for session in sessions))}


def _trial_line(state: TrialState, verdicts: list[Verdict]) -> TrialLine:
    own = [verdict for verdict in verdicts if verdict.trial_id == state.trial.trial_id]
    journal = state.journal
    return TrialLine(
        trial_id=state.trial.trial_id,
        task_id=state.trial.task_id,
        agent=state.trial.agent,
        outcome=journal.outcome if journal else None,
        outcome_detail=journal.outcome_detail if journal else None,
        failure_class=state.failure.failure_class if state.failure else None,
        executions=len(state.executions),
        agent_s=journal.agent_s if journal else None,
        cost_usd=journal.usage.cost_usd if journal else None,
        verdict=own[0] if own else None,
        replications=max(0, len(own) - 1),
    )


def _arm(session: SessionRecord, name: str) -> ArmResult:
    return next(arm for arm in session.arms if arm.name == name)


def _task_line(task_id: str, lock: Lock, snapshot: Snapshot) -> TaskLine:
    task = next(task for task in lock.tasks if task.task_id == task_id)
    admission = next((a for a in snapshot.admissions if a.conditions == task.conditions), None)
    problem = f"{task.failure.failure_class}: {task.failure.message}" if task.failure else None
    if admission is None and problem is None:
        ends = [
            e.end.failure
            for e in snapshot.executions
            if e.key.work == "admission" and e.key.work_id.startswith(f"{task_id}/") and e.end
        ]
        failure = ends[-1] if ends else None
        problem = f"{failure.failure_class}: {failure.message}" if failure else None
    return TaskLine(
        task_id=task_id,
        scoreable=admission.scoreable if admission else None,
        human_speedup=interval_of(_arm(admission, HUMAN).vs_base) if admission else None,
        aa_ratio=interval_of(_arm(admission, BASE2).vs_base) if admission else None,
        problem=problem,
    )


def _agent_line(
    agent: str, trials: tuple[TrialLine, ...], tasks: tuple[TaskLine, ...]
) -> AgentLine:
    headline = {task.task_id for task in tasks if task.scoreable is Scoreable.HEADLINE}
    own = tuple(line for line in trials if line.agent == agent)
    on_headline = [line for line in own if line.task_id in headline]
    verdicts = [line.verdict for line in on_headline if line.verdict is not None]
    scored = [v for v in verdicts if v.validity is not Validity.NOT_MEASURED]
    return AgentLine(
        agent=agent,
        planned=len(own),
        outcomes=_counts(own),
        passed=_rate(sum(verdict.passed for verdict in scored), len(scored)),
        without_verdict=len(on_headline) - len(scored),
    )


def _failures(
    snapshot: Snapshot,
    states: list[TrialState],
    tasks: tuple[TaskLine, ...],
    trials: tuple[TrialLine, ...],
) -> tuple[FailureLine, ...]:
    """Failures that stand: they keep a trial from its outcome, or an outcome from its verdict."""
    standing = [(state.trial.trial_id, state.failure) for state in states if state.failure]
    waiting = {
        "admission": {task.task_id for task in tasks if task.scoreable is None},
        "session": {
            line.task_id
            for line in trials
            if line.verdict is not None and line.verdict.validity is Validity.NOT_MEASURED
        },
        "trial": set(),
    }
    for key, execution in latest_executions(snapshot.executions).items():
        failure = execution.end.failure if execution.end else None
        if failure is not None and key.work_id.split("/")[0] in waiting[key.work]:
            standing.append((f"{key.work} {key.work_id}", failure))
    lines = []
    for failure_class in sorted({failure.failure_class for _, failure in standing}):
        hit = [(name, f) for name, f in standing if f.failure_class == failure_class]
        policy = hit[0][1].policy
        lines.append(
            FailureLine(
                failure_class=failure_class,
                blame=policy.blame,
                advice=policy.advice,
                work=tuple(dict.fromkeys(name for name, _ in hit)),
                message=hit[0][1].message,
            )
        )
    return tuple(lines)


def _lost(snapshot: Snapshot) -> tuple[LostExecution, ...]:
    lost = []
    won = {(f"trial {j.trial_id}", j.execution) for j in snapshot.journals.values()}
    won |= {
        (f"{'admission' if r.kind == 'admission' else 'session'} {r.task_id}/{r.session_id}",
         r.execution)
        for r in (*snapshot.admissions, *snapshot.sessions)
    }  # fmt: skip
    for execution in snapshot.executions:
        if (f"{execution.key.work} {execution.key.work_id}", execution.number) in won:
            continue
        failure = execution.end.failure if execution.end else None
        word = str(failure.failure_class) if failure else "superseded"
        lost.append(
            LostExecution(
                work=execution.key.work,
                work_id=execution.key.work_id,
                execution=execution.number,
                failure_class=word if execution.end else "running or lost",
                cost_usd=execution.end.cost_usd if execution.end else None,
            )
        )
    return tuple(lost)


def _noise(lock: Lock, snapshot: Snapshot, trials: tuple[TrialLine, ...]) -> NoiseRates:
    contrasts = [
        arm.vs_base
        for session in (*snapshot.admissions, *snapshot.sessions)
        for arm in session.arms
        if arm.name == BASE2 and arm.vs_base is not None
    ]
    off = sum(contrast.low > 0 or contrast.high < 0 for contrast in contrasts)
    nops = {agent.name for agent in lock.agents if agent.kind == "nop"}
    passed = sum(bool(t.verdict and t.verdict.passed) for t in trials if t.agent in nops)
    return NoiseRates(aa=_rate(off, len(contrasts)), unpassable_passed=passed)
