"""The workers: started in placement groups of their own, stopped, dropped when they die.

Workers of both stages in one pool, each with a name. It says what it does through two callbacks:
`event` for the books, `tell` for people. What to start and stop is decided elsewhere.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from isobench_ray.cluster.lease import Epoch
from isobench_ray.cluster.placement import bundle, reserve, shape_words
from isobench_ray.cluster.schedule import PoolState, Stage
from isobench_ray.cluster.worker import Worker
from isobench_ray.errors import StoppedEarly, UserError
from isobench_ray.experiment import Experiment, StageResources
from isobench_ray.process import sweep_orphans
from isobench_ray.results import Results

SLOW_START_S = 30.0
MAX_FAILED_STARTS = 3


class _Member(NamedTuple):
    """A worker of the pool."""

    stage: Stage
    group: PlacementGroup
    actor: Any
    ready: ray.ObjectRef[Any]
    asked_at: float
    """When it was asked for (monotonic)."""

    @property
    def is_ready(self) -> bool:
        """Whether it has answered, well or not."""
        done, _ = ray.wait([self.ready], timeout=0)
        return bool(done)


class Pool:
    """All workers of a driver."""

    def __init__(
        self,
        experiment: Experiment,
        results: Results,
        epoch: Epoch,
        capacities: dict[Stage, int],
        event: Callable[..., None],
        tell: Callable[[str], None],
    ) -> None:
        self._experiment, self._results, self._epoch = experiment, results, epoch
        self._capacities, self._event, self._tell = capacities, event, tell
        self._members: dict[str, _Member] = {}
        self._names = (f"worker-{n}" for n in itertools.count(1))
        self._failed_starts: Counter[Stage] = Counter()
        self._told_waiting: set[Stage] = set()

    def state(self, stage: Stage, busy: set[str]) -> PoolState:
        """The workers of one stage; `busy` names those that have work."""
        members = {name: m for name, m in self._members.items() if m.stage == stage}
        ready = {name for name, member in members.items() if member.is_ready}
        return PoolState(
            capacity=self._capacities[stage],
            starting=tuple(sorted(set(members) - ready)),
            idle=tuple(sorted(ready - busy)),
            busy=tuple(sorted(ready & busy)),
        )

    def starting(self) -> list[ray.ObjectRef[Any]]:
        """What to wait for to see the next worker ready."""
        return [member.ready for member in self._members.values() if not member.is_ready]

    def actor(self, name: str) -> Any:
        """The actor of a worker."""
        return self._members[name].actor

    def start(self, stage: Stage) -> None:
        """Ask for one more worker; it becomes ready when its place on the cluster is free."""
        group, shape = reserve(self._asked(stage)), bundle(self._asked(stage))
        place = PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_bundle_index=0
        )
        options: dict[str, Any] = {
            "num_cpus": shape.pop("CPU"),
            "num_gpus": shape.pop("GPU", 0),
            "resources": shape,
            "concurrency_groups": {"control": 1},
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": place,
        }
        remote: Any = ray.remote(**options)(_LeasedWorker)
        actor = remote.remote(self._experiment, self._results.uri, self._epoch.number)
        name = next(self._names)
        ready = actor.ready.remote(self._epoch.claim_key, self._epoch.claim)
        self._members[name] = _Member(stage, group, actor, ready, time.monotonic())
        self._event("worker_started", worker=name, detail=stage)

    def stop(self, name: str) -> None:
        """Let a worker that has no work tidy up and go."""
        member = self._members[name]
        if member.is_ready:
            ray.wait([member.actor.stop.remote()], timeout=10)
        self._remove(name, "worker_stopped")

    def drop(self, name: str) -> None:
        """Give up a worker that died; no error if that has been done."""
        if name in self._members:
            self._remove(name, "worker_lost")

    def cut_off(self, name: str) -> None:
        """Kill what a worker is running, and the worker."""
        if name in self._members:
            ray.wait([self._members[name].actor.kill_children.remote()], timeout=5)
            self._remove(name, "worker_lost")

    def close(self) -> None:
        """Stop all workers."""
        for name in list(self._members):
            self.stop(name)

    def drop_failed(self, anything_runs: bool) -> None:
        """Drop workers that died before they had work; look after those that wait too long.

        Raises:
            StoppedEarly: workers cannot start, or find no place, and nothing else runs.
            UserError: a worker's node does not see Results.
        """
        for name, member in list(self._members.items()):
            if not member.is_ready:
                self._wait_for_place(member, anything_runs)
                continue
            try:
                sees_results = ray.get(member.ready)
            except RayError as error:
                self._fail_start(name, member, error, anything_runs)
                continue
            if not sees_results:
                raise UserError(
                    f"{self._results.uri}: a worker's node does not see this folder; put Results "
                    "on a file system that all nodes share"
                )

    def _fail_start(self, name: str, member: _Member, error: RayError, anything_runs: bool) -> None:
        self._remove(name, "worker_lost")
        self._failed_starts[member.stage] += 1
        words = f"a worker could not start: {_lines(error)[-1]}"
        self._tell(words)
        if self._failed_starts[member.stage] >= MAX_FAILED_STARTS and not anything_runs:
            raise StoppedEarly(words) from error

    def _wait_for_place(self, member: _Member, anything_runs: bool) -> None:
        """Say that a worker waits for its place on the cluster; give up where nothing else runs."""
        waited_s = time.monotonic() - member.asked_at
        if waited_s < SLOW_START_S:
            return
        wait_s = self._experiment.resources.wait_s
        asked = shape_words(self._asked(member.stage))
        words = f"a worker of {asked} waits for its place on the cluster"
        if member.stage not in self._told_waiting:
            self._told_waiting.add(member.stage)
            self._tell(f"{words} (resources.wait_s: {wait_s:g} s)")
        if waited_s > max(wait_s, SLOW_START_S) and not anything_runs:
            raise StoppedEarly(f"{words} for {waited_s:.0f} s, and nothing else runs")

    def _remove(self, name: str, event: str) -> None:
        member = self._members.pop(name)
        ray.kill(member.actor)
        remove_placement_group(member.group)
        self._event(event, worker=name)

    def _asked(self, stage: Stage) -> StageResources:
        resources = self._experiment.resources
        return resources.solve if stage == "solve" else resources.measure


class _LeasedWorker(Worker):
    """The Worker as an actor: learns from Ray which GPUs it owns."""

    def __init__(self, experiment: Experiment, results_uri: str, epoch: int) -> None:
        gpus = tuple(str(gpu) for gpu in ray.get_gpu_ids())
        super().__init__(experiment, results_uri, epoch, gpus)

    @ray.method(concurrency_group="control")
    def kill_children(self) -> None:
        """Kill what is running; answers while work is in progress."""
        sweep_orphans(self._node.ledger)


def first_line(error: object) -> str:
    """What happened: the first line of Ray's words."""
    return _lines(error)[0]


def _lines(error: object) -> list[str]:
    """The lines of an error's text; its class where there is none. The last is the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines or [type(error).__name__]
