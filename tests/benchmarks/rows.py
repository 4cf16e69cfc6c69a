"""The rows of the benchmark. A row is a function that yields one measurement of both sides.

Later work adds a function here and a line to ROWS. Times of a shared machine mean little by
themselves; both sides of a row are measured in turns, and their ratio is what counts.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from isobench_ray.agents import AgentInput
from isobench_ray.cluster.placement import connect, disconnect
from isobench_ray.cluster.worker import Ticket, Worker
from isobench_ray.experiment_file import load_experiment
from isobench_ray.resolve import resolve_experiment
from isobench_ray.results import WorkKey
from isobench_ray.stages.solve import SolveWork
from tests.benchmarks import workspaces
from tests.benchmarks.row import Row, Setting

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "quickstart.yaml"
CALLS = 20
"""Calls per measurement; the measurement is their median."""


class _Bare:
    """An actor that does nothing."""

    def call(self) -> None:
        """Nothing."""


def nop_trial_overhead(_: Setting) -> Iterator[tuple[float, float]]:
    """A nop trial through the Worker with its durable record, beside a call of a bare actor."""
    with tempfile.TemporaryDirectory() as folder, _ray():
        resolved = resolve_experiment(load_experiment(EXPERIMENT))
        planned = next(t for t in resolved.trials.values() if t.spec.kind == "nop")
        task = resolved.tasks[planned.trial.task_id]
        base = ray.put(task.repository.bake(task.resolved.base_tree))
        worker = ray.remote(num_cpus=1)(Worker).remote(resolved.loaded.experiment, folder, 1)
        bare = ray.remote(num_cpus=0)(_Bare).remote()
        agent = planned.agent or AgentInput({}, {}, b"")
        number = 0

        def solve() -> None:
            nonlocal number
            number += 1
            trial = planned.trial.model_copy(update={"attempt": number})
            work = SolveWork(
                trial,
                task.task,
                task.files,
                "nop",
                agent,
                planned.prompt,
                planned.agent_wall_s,
                1,
            )
            ticket = Ticket(WorkKey("trial", trial.trial_id), 1, 1, trial.solve_identity or "")
            result = ray.get(worker.solve.remote(ticket, work, base))
            assert result.failure is None, result.failure

        while True:
            yield _median_ms(solve), _median_ms(lambda: ray.get(bare.call.remote()))


def help_start_up(_: Setting) -> Iterator[tuple[float, float]]:
    """`isobench-ray --help`, which loads none of the heavy packages, beside an empty Python."""

    def start(*arguments: str) -> Callable[[], None]:
        def call() -> None:
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

        return call

    while True:
        yield _median_ms(start("-m", "isobench_ray.cli", "--help")), _median_ms(start("-c", "pass"))


ROWS = (
    Row("help", "`isobench-ray --help`", "`python -c pass`", help_start_up),
    Row(
        "trial overhead",
        "a `nop` trial with a durable record",
        "a call of a bare Ray actor",
        nop_trial_overhead,
    ),
    *workspaces.ROWS,
)


def _median_ms(call: Callable[[], None]) -> float:
    call()
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


@contextmanager
def _ray() -> Iterator[None]:
    connect(None, 0)
    try:
        yield
    finally:
        disconnect()
