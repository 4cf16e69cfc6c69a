"""One trial for people: its record and verdict in a few lines, or its files as they are."""

from __future__ import annotations

from isobench_ray.errors import UserError
from isobench_ray.lock import Lock
from isobench_ray.reporting.content import require_lock, verdict_word
from isobench_ray.results import Results, WorkKey
from isobench_ray.standing import trial_states, verdicts_of


def show_trial(results: Results, name: str, files: list[str]) -> str:
    """A trial's summary, or the named files of it.

    Raises:
        UserError: no such trial, or it has no record yet.
    """
    lock = require_lock(results)
    trial_id = name.strip("/")
    known = [trial.trial_id for trial in lock.trials]
    if trial_id not in known:
        trial_id = f"{trial_id}/attempt-1"
    if trial_id not in known:
        near = [i for i in known if i.startswith(name) or name in i][:10]
        raise UserError(f"no trial '{name}'; " + ("near: " + ", ".join(near) if near else
            "trials are named task/agent/attempt-k; `report` lists them"))  # fmt: skip
    journal = results.trial_record(trial_id)
    if journal is None:
        return _without_outcome(results, lock, trial_id)
    if files:
        held = {artifact.name: artifact for artifact in journal.artifacts}
        key = WorkKey("trial", trial_id)
        texts = [
            results.artifact(key, journal.execution, held[file]).decode(errors="replace")
            for file in files
            if file in held
        ]
        if not texts:
            raise UserError(f"{trial_id} left no {' or '.join(files)}")
        return "".join(texts)
    detail = f" ({journal.outcome_detail})" if journal.outcome_detail else ""
    start = f"{journal.started_at:%F %T} UTC"
    lines = [
        f"trial       {trial_id}",
        f"outcome     {journal.outcome}{detail}",
        f"agent       {journal.agent_kind} {journal.agent_version}, {journal.agent_s:.1f} s",
        f"execution   {journal.execution} on {journal.worker.hostname}, {start}",
        f"sandbox     {journal.sandbox.mechanism}",
    ]
    if journal.patch is not None:
        patch = journal.patch
        lines.append(f"patch       {', '.join(patch.files) or '(does not apply)'}")
    for verdict, of in verdicts_of(lock, results.snapshot()):
        if of.trial_id == trial_id:
            reason = f": {verdict.reason}" if verdict.reason else ""
            lines.append(f"verdict     {verdict_word(verdict)}{reason}")
    lines.append(f"files       {results.uri}/{WorkKey('trial', trial_id).folder}")
    return "\n".join(lines)


def _without_outcome(results: Results, lock: Lock, trial_id: str) -> str:
    """A trial that is open or ended as a failure, with all that is known of its executions."""
    state = next(s for s in trial_states(lock, results.snapshot()) if s.trial.trial_id == trial_id)
    lines = [f"trial       {trial_id}", "outcome     none yet"]
    if state.failure is not None:
        lines += [f"failure     {state.failure.failure_class}: {state.failure.message}"]
        lines += [f"advice      {state.failure.policy.advice}"]
        lines += [state.failure.detail] if state.failure.detail else []
    for execution in state.executions:
        failure = execution.end.failure if execution.end else None
        end = "running or lost" if execution.end is None else failure and failure.failure_class
        lines.append(f"execution   {execution.number}: {end}")
    return "\n".join(lines)
