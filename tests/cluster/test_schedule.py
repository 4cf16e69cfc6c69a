"""The driver's policy on plain data: single states, and whole runs played to their end."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isobench_ray.cluster.schedule import (
    STAGES,
    Action,
    Finish,
    Lease,
    PoolState,
    Stage,
    StartWorkers,
    State,
    StopWorkers,
    decide,
)
from isobench_ray.planning import WorkItem
from isobench_ray.results import WorkKey


def _item(stage: Stage, number: int, task_id: str = "t1") -> WorkItem:
    work = "trial" if stage == "solve" else "session"
    return WorkItem(WorkKey(work, f"{task_id}/{stage}/{number}"), stage, task_id, (number,))


def _pool(capacity: int = 2, starting: Any = (), idle: Any = (), busy: Any = ()) -> PoolState:
    return PoolState(capacity, tuple(starting), tuple(idle), tuple(busy))


def _decide(
    work: list[WorkItem],
    solve: PoolState | None = None,
    measure: PoolState | None = None,
    *,
    together: bool = True,
    draining: bool = False,
) -> list[Action]:
    pools: dict[Stage, PoolState] = {"solve": solve or _pool(), "measure": measure or _pool()}
    return decide(State(tuple(work), pools, together, draining))


S1, S2, S3 = (_item("solve", n) for n in range(3))
M1, M2 = (_item("measure", n) for n in range(2))


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("draining", [True, False])
def test_nothing_to_do_and_nothing_running_is_the_end(together, draining):
    assert _decide([], together=together, draining=draining) == [Finish()]


def test_idle_workers_do_not_keep_a_run_alive():
    assert _decide([], _pool(idle=["a"]), _pool(starting=["b"])) == [Finish()]


def test_a_busy_worker_keeps_a_run_alive():
    assert _decide([], _pool(busy=["a"])) == []


def test_workers_are_asked_for_as_the_work_needs_and_the_capacity_allows():
    assert _decide([S1], _pool(5)) == [StartWorkers("solve", 1)]
    assert _decide([S1, S2, S3], _pool(2)) == [StartWorkers("solve", 2)]
    assert _decide([S1, S2, S3], _pool(5, starting=["a"])) == [StartWorkers("solve", 2)]


def test_work_is_leased_to_idle_workers_in_its_order():
    assert _decide([S1, S2, S3], _pool(2, idle=["a", "b"])) == [Lease("a", S1), Lease("b", S2)]


def test_a_worker_that_is_starting_gets_no_work():
    assert _decide([S1], _pool(1, starting=["a"])) == []


def test_a_busy_worker_gets_no_second_work():
    assert _decide([S1], _pool(1, busy=["a"])) == []


def test_a_stage_leases_its_own_work_only():
    actions = _decide([M1], _pool(idle=["a"]), _pool(1))
    assert actions == [StopWorkers("solve", ("a",)), StartWorkers("measure", 1)]


def test_side_by_side_both_stages_go_on_at_once():
    actions = _decide([S1, M1], _pool(1, idle=["a"]), _pool(1, idle=["b"]))
    assert actions == [Lease("a", S1), Lease("b", M1)]


def test_where_both_do_not_fit_solving_comes_first():
    actions = _decide([M1, S1], _pool(1), _pool(1), together=False)
    assert actions == [StartWorkers("solve", 1)]


def test_where_both_do_not_fit_a_measurement_that_runs_is_not_disturbed():
    actions = _decide([S1], _pool(1), _pool(1, busy=["m"]), together=False)
    assert actions == []


def test_where_both_do_not_fit_the_other_pool_goes_before_this_one_comes():
    actions = _decide([M1], _pool(2, idle=["a", "b"]), _pool(1), together=False)
    assert actions == [StopWorkers("solve", ("a", "b"))]
    assert _decide([M1], _pool(2), _pool(1), together=False) == [StartWorkers("measure", 1)]


def test_where_both_do_not_fit_measuring_waits_for_a_trial_that_still_runs():
    actions = _decide([M1], _pool(2, idle=["a"], busy=["b"]), _pool(1), together=False)
    assert not any(isinstance(action, StartWorkers | Lease) for action in actions)


def test_draining_starts_and_leases_nothing():
    actions = _decide([S1, M1], _pool(3, idle=["a"], busy=["b"]), _pool(1), draining=True)
    assert not any(isinstance(action, StartWorkers | Lease) for action in actions)


class _Run:
    """A driver and its workers, played on plain data; every rule is asserted on the way."""

    def __init__(
        self, tasks: list[tuple[int, int]], capacity: dict[Stage, int], together: bool, seed: int
    ) -> None:
        self._random = random.Random(seed)
        self.trials = {
            t: [_item("solve", n, f"t{t}") for n in range(many)]
            for t, (many, _) in enumerate(tasks)
        }
        self.sessions = {
            t: [_item("measure", n, f"t{t}") for n in range(many)]
            for t, (_, many) in enumerate(tasks)
        }
        self._capacity, self._together = capacity, together
        self._workers: dict[str, tuple[Stage, WorkItem | bool]] = {}
        """By name: the stage, and the work; False while starting, True while idle."""
        self.leased: list[WorkKey] = []
        self.done: set[WorkKey] = set()
        self.draining, self.names = False, 0

    def play(self, drain_at: int | None = None) -> None:
        for turn in range(10_000):
            self.draining = self.draining or turn == drain_at
            actions = decide(self._state())
            if Finish() in actions:
                assert actions == [Finish()]
                return
            before = len(self._workers)
            for action in actions:
                self._act(action)
            assert self._together or len({stage for stage, _ in self._workers.values()}) <= 1
            self._world_moves(must=not actions and len(self._workers) == before)
        raise AssertionError("the run did not end")

    def _open(self) -> list[WorkItem]:
        running = {work.key for _, work in self._workers.values() if isinstance(work, WorkItem)}
        items = []
        for task, trials in self.trials.items():
            items += [item for item in trials if item.key not in self.done]
            if all(item.key in self.done for item in trials):
                items += [item for item in self.sessions[task] if item.key not in self.done]
        return [item for item in items if item.key not in running]

    def _state(self) -> State:
        pools: dict[Stage, PoolState] = {}
        for stage in STAGES:
            mine = {n: work for n, (s, work) in self._workers.items() if s == stage}
            pools[stage] = PoolState(
                self._capacity[stage],
                tuple(n for n, work in mine.items() if work is False),
                tuple(n for n, work in mine.items() if work is True),
                tuple(n for n, work in mine.items() if isinstance(work, WorkItem)),
            )
        return State(tuple(self._open()), pools, self._together, self.draining)

    def _act(self, action: Action) -> None:
        if isinstance(action, StartWorkers):
            assert not self.draining
            assert action.how_many > 0
            for _ in range(action.how_many):
                self.names += 1
                self._workers[f"w{self.names}"] = (action.stage, False)
            mine = [stage for stage, _ in self._workers.values() if stage == action.stage]
            assert len(mine) <= self._capacity[action.stage]
        elif isinstance(action, StopWorkers):
            assert action.workers
            for name in action.workers:
                stage, work = self._workers.pop(name)
                assert stage == action.stage
                assert not isinstance(work, WorkItem)
        else:
            assert isinstance(action, Lease)
            assert not self.draining
            stage, work = self._workers[action.worker]
            assert work is True
            assert stage == action.item.stage
            self._workers[action.worker] = (stage, action.item)
            self.leased.append(action.item.key)

    def _world_moves(self, must: bool) -> None:
        """Starting workers become ready, and busy ones finish: at random, but something does."""
        movable = [n for n, (_, work) in self._workers.items() if work is not True]
        assert movable or not must, "nothing can ever happen again"
        moving = [n for n in movable if self._random.random() < 0.5]
        for name in moving or movable[:1]:
            stage, work = self._workers[name]
            if isinstance(work, WorkItem):
                self.done.add(work.key)
            self._workers[name] = (stage, True)


RUNS = {
    "tasks": st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=5),
    "solve": st.integers(1, 4),
    "measure": st.integers(1, 3),
    "together": st.booleans(),
    "seed": st.integers(0, 2**32),
}


@given(**RUNS)
@settings(max_examples=150, deadline=None)
def test_every_run_leases_all_work_exactly_once_and_ends(tasks, solve, measure, together, seed):
    run = _Run(tasks, {"solve": solve, "measure": measure}, together, seed)
    run.play()
    every = [item.key for part in (run.trials, run.sessions) for items in part.values()
             for item in items]  # fmt: skip
    assert sorted(run.leased) == sorted(every)
    assert run.done == set(every)


@given(**RUNS, drain_at=st.integers(0, 20))
@settings(max_examples=150, deadline=None)
def test_a_drained_run_finishes_what_runs_and_ends(tasks, solve, measure, together, seed, drain_at):
    run = _Run(tasks, {"solve": solve, "measure": measure}, together, seed)
    run.play(drain_at)
    assert len(run.leased) == len(set(run.leased))
    assert set(run.leased) == run.done
