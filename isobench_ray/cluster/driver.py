"""The driver: observe, decide, act. Leases work to workers, and turns deaths into Failures.

It keeps no truth of its own: what is done is what Results say, so a driver can die at any moment
and the same command goes on. Policy is in schedule.py and planning.py, pure and tested without
Ray; here is only the loop that acts.
"""

from __future__ import annotations

import itertools
import logging
import signal
import time
from collections import Counter
from types import FrameType
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError

from isobench_ray.cluster.lease import Epoch
from isobench_ray.cluster.pool import Pool, first_line
from isobench_ray.cluster.progress import Progress
from isobench_ray.cluster.schedule import (
    STAGES,
    Action,
    Finish,
    Lease,
    Stage,
    StartWorkers,
    State,
    StopWorkers,
    decide,
)
from isobench_ray.cluster.worker import Ticket, WorkResult
from isobench_ray.dataset import Appender
from isobench_ray.errors import FailureRaised, StoppedEarly
from isobench_ray.failure import Failure, FailureClass
from isobench_ray.planning import Planner, ResolvedExperiment, WorkItem
from isobench_ray.results import Results, Snapshot, WorkKey
from isobench_ray.schema import utc_now
from isobench_ray.session import HUMAN
from isobench_ray.stages.measure import MeasureWork
from isobench_ray.stages.node import worker_facts
from isobench_ray.stages.solve import SolveWork
from isobench_ray.trial import ExecutionClaim, ExecutionEnd

POLL_S = 0.5

log = logging.getLogger("isobench_ray")


class _Running(NamedTuple):
    """A leased piece of work."""

    worker: str
    item: WorkItem
    ticket: Ticket
    started: float


class Driver:
    """Runs the open work of an experiment to its end."""

    def __init__(
        self,
        resolved: ResolvedExperiment,
        planner: Planner,
        results: Results,
        epoch: Epoch,
        capacities: dict[Stage, int],
        together: bool,
    ) -> None:
        self._resolved, self._planner, self._results = resolved, planner, results
        self._epoch, self._capacities, self._together = epoch, capacities, together
        self._snapshot: Snapshot = results.snapshot()
        self._repeats: Counter[WorkKey] = Counter()
        self._running: dict[ray.ObjectRef[Any], _Running] = {}
        self._bases: dict[str, ray.ObjectRef[Any]] = {}
        self._event_numbers = itertools.count()
        self._signals = 0
        self._appender = Appender(results, epoch.number)
        self._progress = Progress(capacities)
        self._pool = Pool(
            resolved.loaded.experiment, results, epoch, capacities, self._event, self._tell
        )

    def run(self) -> None:
        """Work until nothing is left that may start.

        Raises:
            StoppedEarly: a signal, or another driver, ended it before.
            UserError: the workers cannot see Results.
        """
        old = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        self._say_turns()
        self._end_lost()
        try:
            while not self._step():
                pass
        finally:
            self._close()
            for number, handler in old.items():
                signal.signal(number, handler)
        if self._signals:
            raise StoppedEarly("stopped by a signal")

    def _step(self) -> bool:
        """One turn of the loop; whether it was the last."""
        if self._epoch.lost.is_set():
            raise StoppedEarly("another driver has taken over these Results")
        if self._epoch.error is not None:
            raise self._epoch.error
        if self._signals > 1:
            raise StoppedEarly("stopped by a second signal; running work was cut off")
        state = self._observe()
        for action in decide(state):
            if isinstance(action, Finish):
                return True
            self._act(action)
        self._wait()
        return False

    def _observe(self) -> State:
        """What is open, and what each worker does."""
        busy = {running.worker for running in self._running.values()}
        self._pool.drop_failed(anything_runs=bool(busy))
        pools = {stage: self._pool.state(stage, busy) for stage in STAGES}
        return State(tuple(self._open_work()), pools, self._together, self._signals > 0)

    def _open_work(self) -> list[WorkItem]:
        """Open work that is not running. A task whose trials run is not ready to be measured."""
        running = {running.item.key for running in self._running.values()}
        solving = {r.item.task_id for r in self._running.values() if r.item.stage == "solve"}
        return [
            item
            for item in self._planner.open_work(self._snapshot, self._repeats)
            if item.key not in running
            and not (item.key.work == "session" and item.task_id in solving)
        ]

    def _act(self, action: Action) -> None:
        if isinstance(action, StartWorkers):
            for _ in range(action.how_many):
                self._pool.start(action.stage)
        elif isinstance(action, StopWorkers):
            for name in action.workers:
                self._pool.stop(name)
        elif isinstance(action, Lease):
            self._lease(action.worker, action.item)

    def _lease(self, worker: str, item: WorkItem) -> None:
        """Give an item to a worker, as the next execution of its work."""
        ticket = Ticket(
            item.key, self._next_execution(item.key), self._epoch.number, self._identity(item)
        )
        actor = self._pool.actor(worker)
        self._repeats[item.key] += 1
        try:
            base = self._base(item.task_id)
        except FailureRaised as raised:
            self._end_execution(ticket, raised.failure)
            self._snapshot = self._results.refreshed(self._snapshot, item.key)
            self._tell_failure(item.label, raised.failure)
            return
        if item.stage == "solve":
            ref: ray.ObjectRef[Any] = actor.solve.remote(ticket, self._solve_work(item), base)
        else:
            ref = actor.measure.remote(ticket, self._measure_work(item), base)
        self._running[ref] = _Running(worker, item, ticket, time.monotonic())
        self._event("leased", item.key, ticket.execution, worker)
        self._progress.running([running.item.label for running in self._running.values()])

    def _wait(self) -> None:
        """Wait for an end, or a little while."""
        waiting = [*self._running, *self._pool.starting()]
        if not waiting:
            time.sleep(POLL_S / 10)
            return
        done, _ = ray.wait(waiting, num_returns=1, timeout=POLL_S)
        for ref in done:
            if ref in self._running:
                self._finish(ref)

    def _finish(self, ref: ray.ObjectRef[Any]) -> None:
        """Take in how an execution ended; the death of a worker is a Failure."""
        running = self._running.pop(ref)
        try:
            result: WorkResult = ray.get(ref)
        except RayTaskError as error:
            result = self._dead(running, FailureClass.HARNESS_ERROR, str(error))
        except RayError as error:
            result = self._dead(running, FailureClass.WORKER_DIED, first_line(error))
        if result.failure and result.failure.failure_class is not FailureClass.STALE_LEASE:
            self._end_execution(running.ticket, result.failure)  # where the worker could not
        self._take_in(running.item, result)
        word = str(result.failure.failure_class if result.failure else result.outcome or "measured")
        self._event("ended", result.key, result.execution, running.worker, word)
        duration_s = time.monotonic() - running.started
        stage: Stage = "solve" if running.item.stage == "solve" else "measure"
        self._progress.finished(stage, running.item.label, word, duration_s, self._left())
        if result.failure is not None:
            self._tell_failure(running.item.label, result.failure)

    def _left(self) -> dict[Stage, int]:
        """How much is left of each stage, running work and awaited sessions included."""
        items = [*self._open_work(), *(running.item for running in self._running.values())]
        awaited = self._planner.awaited_sessions(items)
        counts = Counter(item.stage for item in items)
        return {"solve": counts["solve"], "measure": counts["measure"] + awaited}

    def _dead(self, running: _Running, failure_class: FailureClass, words: str) -> WorkResult:
        """The result of an execution whose worker could not give one; drops the worker."""
        failure = Failure(failure_class=failure_class, message=words)
        self._pool.drop(running.worker)
        return WorkResult(running.ticket.key, running.ticket.execution, None, failure)

    def _take_in(self, item: WorkItem, result: WorkResult) -> None:
        """Read what the execution left into the snapshot, and add its rows."""
        self._snapshot = self._results.refreshed(self._snapshot, result.key)
        if item.stage == "solve":
            journal = self._snapshot.journals.get(result.key.work_id)
            if journal is not None:
                trial = self._resolved.trials[journal.trial_id].trial
                self._appender.add_trial(journal, trial, result.execution)
        elif result.failure is None:
            record = self._results.session_record(result.key)
            if record is not None:
                self._appender.add_session(record)

    def _end_lost(self) -> None:
        """Write the end of executions that an earlier driver left without one."""
        for execution in self._snapshot.executions:
            if execution.end is None and execution.claim.epoch < self._epoch.number:
                failure = Failure(
                    failure_class=FailureClass.DRIVER_DIED,
                    message=f"lost with the driver of epoch {execution.claim.epoch}",
                )
                end = ExecutionEnd(failure=failure, ended_at=utc_now())
                self._results.publish(execution.key, execution.number, end, None)
                self._event("lost", execution.key, execution.number)
        self._snapshot = self._results.snapshot()

    def _end_execution(self, ticket: Ticket, failure: Failure) -> None:
        """End an execution in its worker's place, unless that did; claim it if that did not.

        Without the claim, the failure of a worker that died before it claimed would be invisible,
        and its number would be used again.
        """
        claim = ExecutionClaim(
            work=ticket.key.work,
            work_id=ticket.key.work_id,
            execution=ticket.execution,
            epoch=ticket.epoch,
            identity=ticket.identity,
            worker=worker_facts(),
            claimed_at=utc_now(),
        )
        self._results.claim(ticket.key, claim)
        end = ExecutionEnd(failure=failure, ended_at=utc_now())
        self._results.publish(ticket.key, ticket.execution, end, None)

    def _tell_failure(self, label: str, failure: Failure) -> None:
        self._tell(f"  {label}: {failure.failure_class}: {failure.message}")
        self._tell(f"  -> {failure.policy.advice}")

    def _tell(self, message: str) -> None:
        """One line for the terminal and for run.log."""
        log.info(message)
        self._progress.tell(message)

    def _base(self, task_id: str) -> ray.ObjectRef[Any]:
        """The task's base in Ray's object store, put there once."""
        if task_id not in self._bases:
            planned = self._resolved.tasks[task_id]
            assert planned.resolved is not None, "only resolved tasks are leased"
            base = planned.repository.bake(planned.resolved.base_tree)
            self._bases[task_id] = ray.put(base)
        return self._bases[task_id]

    def _solve_work(self, item: WorkItem) -> SolveWork:
        planned = self._resolved.trials[item.key.work_id]
        task = self._resolved.tasks[item.task_id]
        assert planned.agent is not None, "only resolved trials are leased"
        return SolveWork(
            trial=planned.trial,
            task=task.task,
            task_files=task.files,
            agent_kind=planned.spec.kind,
            agent=planned.agent,
            prompt=planned.prompt,
            agent_wall_s=planned.agent_wall_s,
            patch_policy=self._resolved.loaded.experiment.patch,
            concurrency=1 + sum(r.item.stage == "solve" for r in self._running.values()),
        )

    def _measure_work(self, item: WorkItem) -> MeasureWork:
        planned = self._resolved.tasks[item.task_id]
        assert planned.resolved is not None, "only resolved tasks are leased"
        assert item.plan is not None, "a session has a plan"
        admission = next(
            (a for a in self._snapshot.admissions if a.conditions == planned.conditions), None
        )
        patches = {planned.resolved.human_tree: planned.resolved.human_diff}
        for arm in item.plan.arms:
            if arm.trials and arm.name != HUMAN:
                patches[arm.tree] = self._patch_text(arm.trials[0])
        return MeasureWork(
            plan=item.plan,
            task=planned.task,
            task_files=planned.files,
            patches=patches,
            settings=self._resolved.loaded.experiment.measure,
            admission_id=admission.session_id if admission else None,
        )

    def _patch_text(self, trial_id: str) -> bytes:
        journal = self._snapshot.journals[trial_id]
        artifact = next(a for a in journal.artifacts if a.name == "model_patch.diff")
        return self._results.artifact(WorkKey("trial", trial_id), journal.execution, artifact)

    def _identity(self, item: WorkItem) -> str:
        if item.plan is not None:
            return item.plan.identity
        return self._resolved.trials[item.key.work_id].trial.solve_identity or ""

    def _next_execution(self, key: WorkKey) -> int:
        return 1 + max((e.number for e in self._snapshot.executions if e.key == key), default=0)

    def _say_turns(self) -> None:
        shapes = ", ".join(f"{self._capacities[stage]} to {stage}" for stage in STAGES)
        turns = (
            "side by side"
            if self._together
            else ("in turns, as the machine is too small for both at once")
        )
        self._tell(f"workers: {shapes}; {turns}")

    def _event(
        self,
        event: str,
        key: WorkKey | None = None,
        execution: int | None = None,
        worker: str | None = None,
        detail: str | None = None,
    ) -> None:
        row: dict[str, Any] = {
            "epoch": self._epoch.number,
            "sequence": next(self._event_numbers),
            "time": utc_now().isoformat(),
            "event": event,
            "work": key.work if key else None,
            "work_id": key.work_id if key else None,
            "execution": execution,
            "worker": worker,
            "detail": detail,
        }
        self._results.append_line(f"events/{self._epoch.number}.jsonl", row)
        log.info(" ".join(f"{k}={v}" for k, v in row.items() if v is not None and k != "time"))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals == 1:
            self._tell("stopping: running work is finished first; again to cut it off")

    def _close(self) -> None:
        for running in self._running.values():
            failure = Failure(
                failure_class=FailureClass.DRIVER_DIED, message="cut off when the run was stopped"
            )
            self._pool.cut_off(running.worker)
            if not self._epoch.lost.is_set():
                self._end_execution(running.ticket, failure)
        self._pool.close()
        self._appender.flush()
        self._progress.close()


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
