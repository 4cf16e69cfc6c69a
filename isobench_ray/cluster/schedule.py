"""State in, actions out: which workers to start and stop, and which work to lease. No Ray here.

The state is what the driver observed; nothing is remembered between calls. Two pools of workers,
one per stage. Where both fit on the cluster at once they live side by side; where they do not,
the pools alternate: solving first, then measuring.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from isobench_ray.planning import WorkItem

Stage = Literal["solve", "measure"]
STAGES: tuple[Stage, ...] = ("solve", "measure")


class PoolState(NamedTuple):
    """The workers of one stage."""

    capacity: int
    """Most workers that this pool may have."""
    starting: tuple[str, ...]
    """Workers that have been asked for and are not ready."""
    idle: tuple[str, ...]
    """Workers that wait for work."""
    busy: tuple[str, ...]
    """Workers that have work."""

    @property
    def size(self) -> int:
        """All workers, ready or not."""
        return len(self.starting) + len(self.idle) + len(self.busy)


class State(NamedTuple):
    """What the driver sees."""

    open_work: tuple[WorkItem, ...]
    """Work that may be leased and is not running, in order."""
    pools: dict[Stage, PoolState]
    together: bool
    """Whether both pools fit on the cluster at once."""
    draining: bool
    """Whether nothing new may start."""


class StartWorkers(NamedTuple):
    """Ask for so many more workers."""

    stage: Stage
    how_many: int


class StopWorkers(NamedTuple):
    """Let idle or starting workers go."""

    stage: Stage
    workers: tuple[str, ...]


class Lease(NamedTuple):
    """Give work to a worker."""

    worker: str
    item: WorkItem


class Finish(NamedTuple):
    """Nothing runs, and nothing is left that may start."""


Action = StartWorkers | StopWorkers | Lease | Finish


def decide(state: State) -> list[Action]:
    """The actions that the state calls for."""
    work = {stage: _work(state, stage) for stage in STAGES}
    busy = any(pool.busy for pool in state.pools.values())
    if not busy and not any(work.values()):
        return [Finish()]
    actions: list[Action] = []
    for stage in STAGES:
        pool = state.pools[stage]
        allowed = state.together or stage == _turn(state, work)
        actions += _leases(pool, work[stage]) if allowed else []
        actions += _resize(stage, pool, len(work[stage]), allowed, state)
    return actions


def _work(state: State, stage: Stage) -> list[WorkItem]:
    return [] if state.draining else [item for item in state.open_work if item.stage == stage]


def _turn(state: State, work: dict[Stage, list[WorkItem]]) -> Stage:
    """Whose turn it is where both pools do not fit: the busy one's, else solving's."""
    if state.pools["measure"].busy:
        return "measure"
    return "solve" if work["solve"] or state.pools["solve"].busy else "measure"


def _leases(pool: PoolState, work: list[WorkItem]) -> list[Action]:
    return [Lease(worker, item) for worker, item in zip(pool.idle, work, strict=False)]


def _resize(
    stage: Stage, pool: PoolState, wanted_work: int, allowed: bool, state: State
) -> list[Action]:
    """As many workers as there is work for, within capacity; none where it is not the turn."""
    if not allowed or (wanted_work == 0 and not pool.busy):
        idle = pool.idle + pool.starting
        return [StopWorkers(stage, idle)] if idle else []
    others = [other for other in STAGES if other != stage]
    if not state.together and any(state.pools[other].size for other in others):
        return []  # the other pool's workers must go first
    missing = min(pool.capacity, len(pool.busy) + wanted_work) - pool.size
    return [StartWorkers(stage, missing)] if missing > 0 else []
