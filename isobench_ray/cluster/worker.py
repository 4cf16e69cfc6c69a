"""The Worker: owns its CPUs, GPUs and a scratch folder; runs one piece of work at a time.

A plain class; `ray.remote` wraps it where the driver starts it. Ray ends here: the stages know
nothing of it. This is also the one place where an error becomes a recorded Failure.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import stat
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from isobench_ray.base import Base
from isobench_ray.cluster.lease import epoch_key
from isobench_ray.errors import FailureRaised
from isobench_ray.experiment import Experiment
from isobench_ray.failure import Failure, FailureClass
from isobench_ray.process import start_ticks, sweep_orphans
from isobench_ray.results import Results, WorkKey, open_results
from isobench_ray.schema import sha256_hex, utc_now
from isobench_ray.session import SessionRecord
from isobench_ray.stages.measure import MeasureWork, measure
from isobench_ray.stages.node import Node, clear_scratch, open_node
from isobench_ray.stages.solve import SolveWork, solve
from isobench_ray.trial import ExecutionClaim, ExecutionEnd, Outcome, TrialRecord
from isobench_ray.workspace import remove_tree

PUBLISH_WAITS_S = (1.0, 5.0, 0.0)
"""Waits after a publishing that failed: finished work is worth a few tries."""


class Ticket(NamedTuple):
    """The right to start one execution, as the driver gives it."""

    key: WorkKey
    execution: int
    epoch: int
    identity: str


class WorkResult(NamedTuple):
    """How an execution ended, as the driver needs to know it."""

    key: WorkKey
    execution: int
    outcome: Outcome | None
    failure: Failure | None


Record = TrialRecord | SessionRecord


class Worker:
    """Runs leased work on one node."""

    def __init__(
        self, experiment: Experiment, results_uri: str, epoch: int, gpus: tuple[str, ...] = ()
    ) -> None:
        self._results: Results = open_results(results_uri)
        scratch = _own_scratch(results_uri, epoch)
        self._node: Node = open_node(
            experiment.environment,
            experiment.sandbox,
            experiment.limits,
            scratch,
            gpus,
            experiment.workspace,
        )

    def ready(self, claim_key: str, claim: bytes) -> bool:
        """Whether this worker sees the driver's Results: the claim of its epoch."""
        return self._results.store.get(claim_key) == claim

    def solve(self, ticket: Ticket, work: SolveWork, base: Base) -> WorkResult:
        """Run one trial and publish its record."""
        return self._execute(
            ticket,
            base,
            lambda artifacts: solve(work, base, ticket.execution, self._node, artifacts),
        )

    def measure(self, ticket: Ticket, work: MeasureWork, base: Base) -> WorkResult:
        """Measure one session and publish its record."""
        return self._execute(
            ticket,
            base,
            lambda artifacts: measure(work, base, ticket.execution, self._node, artifacts),
        )

    def stop(self) -> None:
        """Remove the scratch folder."""
        sweep_orphans(self._node.ledger)
        remove_tree(self._node.scratch)

    def _execute(self, ticket: Ticket, base: Base, stage: Callable[[Path], Record]) -> WorkResult:
        """Claim, run, publish. Whatever goes wrong is recorded as a Failure of this execution."""
        superseded = self._results.store.get(epoch_key(ticket.epoch + 1)) is not None
        if superseded or not self._results.claim(ticket.key, self._claim(ticket)):
            return WorkResult(ticket.key, ticket.execution, None, _stale(ticket))
        start = time.monotonic()
        record: Record | None = None
        failure: Failure | None = None
        artifacts = self._node.scratch / "none-yet"
        try:
            artifacts = clear_scratch(self._node, base)
            record = stage(artifacts)
        except FailureRaised as raised:
            failure = raised.failure
        except Exception as error:  # noqa: BLE001 - an error of ours must not look like the agent's
            failure = _unexpected(error)
        duration_s = time.monotonic() - start
        problem = None
        for wait_s in PUBLISH_WAITS_S:
            try:
                return self._publish(ticket, artifacts, record, failure, duration_s)
            except OSError as error:
                problem = _unexpected(error)
                time.sleep(wait_s)
        return WorkResult(ticket.key, ticket.execution, None, problem)

    def _publish(
        self,
        ticket: Ticket,
        artifacts: Path,
        record: Record | None,
        failure: Failure | None,
        duration_s: float,
    ) -> WorkResult:
        stored = self._results.store_artifacts(ticket.key, ticket.execution, artifacts)
        outcome = record.outcome if isinstance(record, TrialRecord) else None
        end = ExecutionEnd(
            outcome=outcome,
            failure=failure,
            ended_at=utc_now(),
            duration_s=duration_s,
            cost_usd=record.usage.cost_usd if isinstance(record, TrialRecord) else None,
            artifacts=stored,
        )
        final = record.model_copy(update={"artifacts": stored}) if record else None
        if not self._results.publish(ticket.key, ticket.execution, end, final):
            return WorkResult(ticket.key, ticket.execution, None, _stale(ticket))
        return WorkResult(ticket.key, ticket.execution, outcome, failure)

    def _claim(self, ticket: Ticket) -> ExecutionClaim:
        return ExecutionClaim(
            work=ticket.key.work,
            work_id=ticket.key.work_id,
            execution=ticket.execution,
            epoch=ticket.epoch,
            identity=ticket.identity,
            worker=self._node.facts,
            claimed_at=utc_now(),
        )


def _stale(ticket: Ticket) -> Failure:
    return Failure(
        failure_class=FailureClass.STALE_LEASE,
        message=f"execution {ticket.execution} belongs to another driver, or the work is done",
    )


def _unexpected(error: Exception) -> Failure:
    full = isinstance(error, OSError) and error.errno in (28, 122)  # ENOSPC, EDQUOT
    return Failure(
        failure_class=FailureClass.DISK_FULL if full else FailureClass.HARNESS_ERROR,
        message=f"{type(error).__name__}: {error}",
        detail=traceback.format_exc(),
    )


def _own_scratch(results_uri: str, epoch: int) -> Path:
    """A scratch folder of this worker, after sweeping those of dead and of older ones.

    The folder's name holds the worker's epoch, pid and start time. A worker of an older epoch that
    still lives has lost its driver; it is killed, so that it does not go on spending.
    """
    root = Path(tempfile.gettempdir()) / f"isobench-ray-{os.getuid()}"
    own_root = root / sha256_hex(results_uri.encode())[:16]
    root.mkdir(exist_ok=True, mode=0o700)
    _refuse_foreign(root)
    own_root.mkdir(exist_ok=True, mode=0o700)
    scratch = own_root / f"{epoch}-{os.getpid()}-{start_ticks(os.getpid())}"
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers of a node start at the same time
        for folder in root.glob("*/*"):
            _sweep(folder, epoch if folder.parent == own_root else None)
        scratch.mkdir()
    return scratch


def _refuse_foreign(root: Path) -> None:
    """The name is known beforehand, and the folder above is everybody's.

    Raises:
        PermissionError: somebody else made it, or may write to it.
    """
    status = root.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"{root} is not a folder of this user alone; remove it or set TMPDIR")


def _sweep(folder: Path, epoch: int | None) -> None:
    """Remove a worker's scratch folder and processes, unless it lives and is not older.

    Workers of other Results (epoch None) are left while they live.
    """
    if re.fullmatch(r"\d+-\d+-\d+", folder.name) is None:
        return
    old_epoch, pid, ticks = (int(part) for part in folder.name.split("-"))
    alive = start_ticks(pid) == ticks
    if alive and (epoch is None or old_epoch >= epoch):
        return
    if alive:
        os.kill(pid, signal.SIGKILL)
    sweep_orphans(folder / "processes")
    remove_tree(folder)
