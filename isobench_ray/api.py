"""The Python API: the same verbs as the command line."""

from __future__ import annotations

import errno
import fnmatch
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from operator import attrgetter
from pathlib import Path
from typing import Literal, NamedTuple

from isobench_ray.cluster.driver import Driver
from isobench_ray.cluster.lease import latest_epoch, refuse_second_driver, take_epoch
from isobench_ray.cluster.placement import capacities, check_shapes, connect, disconnect
from isobench_ray.cluster.schedule import Stage
from isobench_ray.dataset import rebuild
from isobench_ray.environment import open_environment
from isobench_ray.errors import FailureRaised, IsobenchError, StoppedEarly, UserError
from isobench_ray.experiment import Experiment
from isobench_ray.experiment_file import LoadedExperiment, load_experiment
from isobench_ray.failure import Blame
from isobench_ray.lock import read_lock
from isobench_ray.planning import PlannedTask, Planner, ResolvedExperiment, RunOptions, WorkItem
from isobench_ray.reporting.content import Report, build_report, require_lock
from isobench_ray.reporting.markdown import render_markdown
from isobench_ray.resolve import make_lock, refuse_other_experiment, resolve_experiment
from isobench_ray.results import Results, Snapshot, WorkKey, open_results
from isobench_ray.sandbox import open_sandbox
from isobench_ray.schema import suggest, utc_now
from isobench_ray.stages.leak_audit import AuditedTask, LeakReport, audit_workspace
from isobench_ray.stages.node import open_node
from isobench_ray.standing import trial_states
from isobench_ray.store import refuse_unwritable
from isobench_ray.workspace import remove_tree

__all__ = [
    "Plan",
    "RunSummary",
    "audit_workspaces",
    "load_experiment",
    "open_results",
    "plan",
    "rebuild_dataset",
    "report",
    "run",
]

log = logging.getLogger("isobench_ray")


class Plan(NamedTuple):
    """What a run would do: everything that could be started now, and what follows from it."""

    resolved: ResolvedExperiment
    snapshot: Snapshot
    open_work: list[WorkItem]
    planned: int
    done: int
    blocked: list[str]
    """Trials whose task cannot be resolved."""


class RunSummary(NamedTuple):
    """How a run ended."""

    exit_code: Literal[0, 1]
    results: Results


def plan(
    loaded: LoadedExperiment, results_uri: str | None = None, options: RunOptions | None = None
) -> Plan:
    """What an experiment would run against Results. Starts and writes nothing.

    Raises:
        UserError: bad input of any kind.
    """
    resolved = resolve_experiment(loaded)
    results = open_results(results_uri or loaded.results_uri)
    snapshot = results.snapshot()
    refuse_other_experiment(resolved, results, read_lock(results), snapshot)
    planner = Planner(resolved, options or RunOptions())
    chosen = planner.chosen_trials()
    if not chosen:
        raise UserError(f"{loaded.path}: --only/--limit leave nothing to run")
    return Plan(
        resolved=resolved,
        snapshot=snapshot,
        open_work=planner.open_work(snapshot, Counter()),
        planned=len(chosen),
        done=sum(trial_id in snapshot.journals for trial_id in chosen),
        blocked=[t for t in chosen if resolved.trials[t].agent is None],
    )


def run(
    loaded: LoadedExperiment,
    results_uri: str | None = None,
    *,
    address: str | None = None,
    gpus: int | None = None,
    options: RunOptions | None = None,
) -> RunSummary:
    """Run what is open, until every planned trial has an outcome and a verdict, or a failure.

    Raises:
        UserError: bad input; nothing was written.
        StoppedEarly: ended before; the same call goes on.
    """
    options = options or RunOptions()
    results = open_results(results_uri or loaded.results_uri)
    refuse_unwritable(results.uri)
    refuse_second_driver(results)
    planned = plan(loaded, results.uri, options)
    try:
        if planned.open_work:
            _run_open_work(planned, results, options, address, gpus)
        else:
            _finish_projection(planned, results)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoppedEarly(f"{results.uri}: {error.strerror}; what is finished is safe") from error
    return RunSummary(_exit_code(results), results)


def report(results: Results) -> Report:
    """The report of Results, as data.

    Raises:
        UserError: there are no Results.
    """
    return build_report(results)


def rebuild_dataset(results: Results) -> dict[str, int]:
    """Rebuild the Parquet tables from the records; number of rows by table.

    Raises:
        UserError: there are no Results, or a living driver is writing to them.
    """
    lock = require_lock(results)
    refuse_second_driver(results)
    snapshot = results.snapshot()
    _restore_links(snapshot, results)
    return rebuild(results, lock, snapshot, latest_epoch(results))


def audit_workspaces(loaded: LoadedExperiment, ids: tuple[str, ...]) -> Iterator[LeakReport]:
    """Audit the workspaces of an experiment's tasks on this machine: can the answer be reached?

    Args:
        loaded: the experiment.
        ids: task ids or shell globs; empty: all tasks.

    Raises:
        UserError: bad input: no task of such an id, a task that cannot be resolved, an
            environment, sandbox or scratch folder that does not serve.
        FailureRaised: the audit itself failed.
    """
    resolved = resolve_experiment(loaded)
    for pattern in ids:
        if not fnmatch.filter(resolved.tasks, pattern):
            near = suggest(pattern, list(resolved.tasks))
            raise UserError(f"{loaded.path}: no task '{pattern}'{near}")
    chosen = [
        planned
        for task_id, planned in resolved.tasks.items()
        if not ids or any(fnmatch.fnmatchcase(task_id, pattern) for pattern in ids)
    ]
    try:
        yield from _audits(loaded.experiment, chosen)
    except FailureRaised as error:
        if error.failure.policy.blame is Blame.HARNESS:
            raise
        advice = error.failure.policy.advice
        raise UserError(f"{loaded.path}: {error}; {advice}") from error


def _audits(experiment: Experiment, chosen: list[PlannedTask]) -> Iterator[LeakReport]:
    """One audit after the other, on one worker's scratch folder."""
    with tempfile.TemporaryDirectory(prefix="isobench-ray-audit-") as folder:
        node = open_node(
            experiment.environment,
            experiment.sandbox,
            experiment.limits,
            Path(folder) / "scratch",
            workspace=experiment.workspace,
        )
        try:
            for planned in chosen:
                if planned.resolved is None:
                    assert planned.failure is not None, "a task that is not resolved has a failure"
                    raise FailureRaised(planned.failure)
                audited = AuditedTask(
                    planned.task, planned.files, planned.repository, planned.resolved
                )
                yield audit_workspace(audited, node, experiment.patch)
        finally:
            remove_tree(node.scratch)


def _run_open_work(
    planned: Plan, results: Results, options: RunOptions, address: str | None, gpus: int | None
) -> None:
    """Connect to Ray, become the driver, work, leave everything in order."""
    experiment = planned.resolved.loaded.experiment
    stages: tuple[Stage, ...] = tuple(s for s in ("solve", "measure") if s in options.stages)
    if address is None:
        _refuse_broken_node(planned)
    started = time.monotonic()
    connection = connect(address, gpus)
    try:
        check_shapes(experiment.resources, stages, connection, _tell)
        epoch = take_epoch(results)
        try:
            _begin(planned, results, epoch.number)
            counts, together = capacities(experiment.resources, connection)
            planner = Planner(planned.resolved, options)
            Driver(planned.resolved, planner, results, epoch, counts, together).run()
        finally:
            if not epoch.lost.is_set():
                _finish_projection(planned, results, epoch.number)
                _note_invocation(results, epoch.number, "end", time.monotonic() - started)
            epoch.give_back()
    finally:
        disconnect()


def _refuse_broken_node(planned: Plan) -> None:
    """On one machine, an environment or sandbox that is missing is bad input, not a failure."""
    experiment = planned.resolved.loaded.experiment
    try:
        open_sandbox(experiment.sandbox, open_environment(experiment.environment))
    except FailureRaised as error:
        raise UserError(
            f"{planned.resolved.loaded.path}: {error}; {error.failure.policy.advice}"
        ) from error


def _begin(planned: Plan, results: Results, epoch: int) -> None:
    """What a driver writes before the first lease."""
    results.store.sweep()
    results.store.put("experiment.yaml", planned.resolved.loaded.text.encode())
    results.store.put(
        "lock.json", make_lock(planned.resolved, read_lock(results), planned.snapshot).to_json()
    )
    _note_invocation(results, epoch, "start", None)
    _restore_links(planned.snapshot, results)
    handler = RotatingFileHandler(Path(results.uri) / "run.log", maxBytes=10_000_000, backupCount=3)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.info("epoch %d: %d pieces of work are open", epoch, len(planned.open_work))


def _finish_projection(planned: Plan, results: Results, epoch: int | None = None) -> None:
    """Rebuild the tables and the report from the records."""
    lock = read_lock(results)
    if lock is None:
        lock = make_lock(planned.resolved, None, planned.snapshot)
        results.store.put("experiment.yaml", planned.resolved.loaded.text.encode())
        results.store.put("lock.json", lock.to_json())
    elif epoch is None:
        grown = make_lock(planned.resolved, lock, planned.snapshot)
        parts = attrgetter("tasks", "trials", "analysis")
        if parts(grown) != parts(lock):
            lock = grown
            results.store.put("lock.json", lock.to_json())
    rebuild(results, lock, results.snapshot(), epoch or latest_epoch(results))
    results.store.put("report.md", render_markdown(build_report(results)).encode())


def _restore_links(snapshot: Snapshot, results: Results) -> None:
    """Put back the well-known names beside journals that a kill left without."""
    for journal in snapshot.journals.values():
        key = WorkKey("trial", journal.trial_id)
        results.restore_links(key, journal.execution, [a.name for a in journal.artifacts])


def _note_invocation(results: Results, epoch: int, what: str, duration_s: float | None) -> None:
    row = {"epoch": epoch, "what": what, "time": utc_now(), "argv": sys.argv[1:]}
    if duration_s is not None:
        row["duration_s"] = round(duration_s, 3)
    results.append_line("invocations.jsonl", row)


def _exit_code(results: Results) -> Literal[0, 1]:
    """1 when a planned trial ended as a failure, or a failure keeps patches from being measured."""
    lock = read_lock(results)
    if lock is None:
        raise IsobenchError(f"{results.uri}: the run left no lock.json")
    snapshot = results.snapshot()
    failed = any(state.failure is not None for state in trial_states(lock, snapshot))
    return 1 if failed or build_report(results).failures else 0


def _tell(message: str) -> None:
    sys.stderr.write(f"{message}\n")
