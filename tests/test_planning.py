"""Planning: what is open over given Results, and what is never planned again."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isobench_ray.errors import UserError
from isobench_ray.failure import MAX_EXECUTIONS_PER_RUN, POLICIES, FailureClass, Retry
from isobench_ray.planning import (
    Planner,
    ResolvedExperiment,
    RunOptions,
    WorkItem,
    admission_plan,
    measure_conditions,
    measure_plans,
    session_key,
)
from isobench_ray.results import Snapshot, WorkKey
from isobench_ray.session import CONTROLS, MAX_ARMS, SessionPlan
from isobench_ray.trial import Outcome
from tests.builders import (
    admission,
    base_tree,
    execution,
    hex_id,
    human_tree,
    journal,
    patch,
    resolved_experiment,
    scripted,
    session_record,
    sessions_of,
    snapshot,
    task_row,
)

NEVER = FailureClass.BASE_CHECK_FAILED
NEXT_RUN = FailureClass.DISK_FULL
NOW = FailureClass.WORKER_DIED


def _open(
    resolved: ResolvedExperiment,
    what: Snapshot | None = None,
    repeats: Counter[WorkKey] | None = None,
    **options: Any,
) -> list[WorkItem]:
    planner = Planner(resolved, RunOptions(**options))
    return planner.open_work(what or snapshot(), repeats or Counter())


def _ids(items: list[WorkItem], work: str = "trial") -> list[str]:
    return sorted(item.key.work_id for item in items if item.key.work == work)


def _key(trial_id: str) -> WorkKey:
    return WorkKey("trial", trial_id)


def _admission_key(resolved: ResolvedExperiment, task_id: str = "t1") -> WorkKey:
    plan = admission_plan(resolved.tasks[task_id])
    assert plan is not None
    return session_key(plan)


def _plans(resolved: ResolvedExperiment, what: Snapshot) -> list[SessionPlan]:
    return measure_plans(resolved.tasks["t1"], what.journals.values(), what)


def _agents_trees(names: str) -> list[Any]:
    return [journal(f"t1/{name}/attempt-1", patch(hex_id(name))) for name in names]


def test_the_fixture_policies_are_what_the_tests_below_take_them_for():
    retries = [POLICIES[c].retry for c in (NEVER, NEXT_RUN, NOW)]
    assert retries == [Retry.NEVER, Retry.NEXT_RUN, Retry.NOW]


# Trials


def test_everything_is_open_over_empty_results():
    resolved = resolved_experiment(task_row("t1"), task_row("t2"), attempts=2)
    items = _open(resolved)
    assert _ids(items) == sorted(resolved.trials)
    assert len(resolved.trials) == 8
    assert len(_ids(items, "admission")) == 2
    assert _ids(items, "session") == []


def test_a_finished_trial_is_not_planned_again_whatever_its_outcome():
    resolved = resolved_experiment(agents=scripted(*Outcome))
    done = [journal(f"t1/{outcome}/attempt-1", outcome=outcome) for outcome in Outcome]
    assert _ids(_open(resolved, snapshot(done))) == []
    assert _ids(_open(resolved, snapshot(done), retry_failures=True)) == []
    assert _ids(_open(resolved, snapshot(done[1:]))) == ["t1/patch/attempt-1"]


def test_an_execution_that_was_lost_is_repeated():
    resolved = resolved_experiment()
    lost = execution(_key("t1/nop/attempt-1"), ended=False)
    assert "t1/nop/attempt-1" in _ids(_open(resolved, snapshot(executions=[lost])))


@pytest.mark.parametrize(
    ("failure", "retry_failures", "is_open"),
    [
        (NEVER, False, False),
        (NEVER, True, True),
        (NEXT_RUN, False, True),
        (NEXT_RUN, True, True),
        (NOW, False, True),
        (NOW, True, True),
    ],
)
def test_what_a_new_run_repeats_of_failures_of_older_ones(failure, retry_failures, is_open):
    failed = snapshot(executions=[execution(_key("t1/nop/attempt-1"), 1, failure)])
    items = _open(resolved_experiment(), failed, retry_failures=retry_failures)
    assert ("t1/nop/attempt-1" in _ids(items)) is is_open


@pytest.mark.parametrize(
    ("failure", "repeats", "is_open"),
    [
        (NEVER, 1, False),
        (NEXT_RUN, 1, False),
        (NOW, 1, True),
        (NOW, MAX_EXECUTIONS_PER_RUN - 1, True),
        (NOW, MAX_EXECUTIONS_PER_RUN, False),
    ],
)
@pytest.mark.parametrize("retry_failures", [False, True])
def test_what_one_run_repeats_by_itself(failure, repeats, is_open, retry_failures):
    key = _key("t1/nop/attempt-1")
    failed = snapshot(executions=[execution(key, repeats, failure)])
    items = _open(
        resolved_experiment(), failed, Counter({key: repeats}), retry_failures=retry_failures
    )
    assert ("t1/nop/attempt-1" in _ids(items)) is is_open


def test_the_latest_execution_speaks_for_the_work():
    key = _key("t1/nop/attempt-1")
    earlier = snapshot(executions=[execution(key, 1, NEVER), execution(key, 2, NEXT_RUN)])
    later = snapshot(executions=[execution(key, 1, NEXT_RUN), execution(key, 10, NEVER)])
    assert "t1/nop/attempt-1" in _ids(_open(resolved_experiment(), earlier))
    assert "t1/nop/attempt-1" not in _ids(_open(resolved_experiment(), later))


def test_a_task_that_cannot_be_resolved_has_no_work_and_hinders_no_other():
    resolved = resolved_experiment(task_row("t1"), task_row("t2"), blocked=["t1"])
    items = _open(resolved)
    assert {item.task_id for item in items} == {"t2"}
    planner = Planner(resolved, RunOptions())
    assert {t.split("/")[0] for t in planner.chosen_trials()} == {"t1", "t2"}


# Options


def test_only_takes_tasks_agents_of_a_task_and_single_trials():
    resolved = resolved_experiment(task_row("t1"), task_row("t2"), attempts=2)
    for only, expected in {
        "t1": 4,
        "t2/oracle": 2,
        "t2/oracle/attempt-2": 1,
    }.items():
        assert len(_ids(_open(resolved, only=(only,)))) == expected, only
        assert len(Planner(resolved, RunOptions(only=(only,))).chosen_trials()) == expected


@pytest.mark.parametrize("only", ["t", "t2/orac", "t2/oracle/attempt-3"])
def test_only_of_something_unknown_is_refused_even_beside_something_known(only):
    resolved = resolved_experiment(task_row("t1"), task_row("t2"), attempts=2)
    with pytest.raises(UserError, match=f"--only {only}"):
        Planner(resolved, RunOptions(only=("t1", only)))


def test_a_limit_below_one_is_refused():
    with pytest.raises(UserError, match="--limit -1"):
        Planner(resolved_experiment(), RunOptions(limit=-1))


def test_limit_takes_the_first_tasks():
    resolved = resolved_experiment(*(task_row(f"t{n}") for n in range(4)))
    assert {item.task_id for item in _open(resolved, limit=2)} == {"t0", "t1"}


def test_a_stage_that_is_not_asked_for_does_not_run():
    resolved = resolved_experiment()
    assert {item.stage for item in _open(resolved, stages=("solve",))} == {"solve"}
    assert {item.stage for item in _open(resolved, stages=("measure",))} == {"measure"}


def test_measuring_alone_takes_what_has_been_solved_and_waits_for_nothing():
    resolved = resolved_experiment()
    planned = resolved.tasks["t1"]
    what = snapshot([journal("t1/oracle/attempt-1", patch(human_tree()))], (), [admission(planned)])
    assert _ids(_open(resolved, what), "session") == []
    assert len(_ids(_open(resolved, what, stages=("measure",)), "session")) == 1


# The barrier, and when sessions come


def test_the_admission_is_open_from_the_start_and_sessions_wait_for_it():
    resolved = resolved_experiment(agents=scripted("a"))
    solved = snapshot(_agents_trees("a"))
    assert len(_ids(_open(resolved, solved), "admission")) == 1
    assert _ids(_open(resolved, solved), "session") == []
    admitted = snapshot(_agents_trees("a"), (), [admission(resolved.tasks["t1"])])
    assert _ids(_open(resolved, admitted), "admission") == []
    assert len(_ids(_open(resolved, admitted), "session")) == 1


def test_an_admission_that_failed_for_good_keeps_its_task_from_being_measured():
    resolved = resolved_experiment(agents=scripted("a"))
    failed = snapshot(_agents_trees("a"), (), (), [execution(_admission_key(resolved), 1, NEVER)])
    assert _open(resolved, failed) == []
    assert len(_open(resolved, failed, retry_failures=True)) == 1


def test_a_session_waits_until_all_trials_of_its_task_have_ended_but_not_for_other_tasks():
    agents = scripted("a", "b")
    resolved = resolved_experiment(task_row("t1"), task_row("t2"), agents=agents)
    admissions = [admission(planned) for planned in resolved.tasks.values()]
    half = snapshot(_agents_trees("a"), (), admissions)
    assert _ids(_open(resolved, half), "session") == []
    whole = snapshot(_agents_trees("ab"), (), admissions)
    items = _open(resolved, whole)
    assert [i.split("/")[0] for i in _ids(items, "session")] == ["t1"]
    assert _ids(items) == ["t2/a/attempt-1", "t2/b/attempt-1"]


@pytest.mark.parametrize(("failure", "repeats"), [(NEVER, 0), (NEXT_RUN, 1), (NOW, 3)])
def test_a_trial_that_ended_as_a_failure_does_not_hold_up_the_barrier(failure, repeats):
    resolved = resolved_experiment(agents=scripted("a", "b"))
    key = _key("t1/b/attempt-1")
    what = snapshot(
        _agents_trees("a"), (), [admission(resolved.tasks["t1"])], [execution(key, 1, failure)]
    )
    counts = Counter({key: repeats})
    assert len(_ids(_open(resolved, what, counts), "session")) == 1
    assert _ids(_open(resolved, what, counts)) == []


def test_a_patch_that_comes_late_gets_a_session_of_its_own():
    resolved = resolved_experiment(agents=scripted("a", "b"))
    planned = resolved.tasks["t1"]
    first = sessions_of(planned, _agents_trees("a"))
    what = snapshot(_agents_trees("ab"), first, [admission(planned)])
    (plan,) = _plans(resolved, what)
    assert [arm.tree for arm in plan.arms if arm.name not in CONTROLS] == [hex_id("b")]
    assert plan.session_id != first[0].session_id


# Arms


def test_equal_trees_are_one_arm_of_all_their_trials():
    same = patch(hex_id("same"))
    done = [journal(f"t1/{name}/attempt-{k}", same) for name in ("b", "a") for k in (1, 2)]
    (plan,) = _plans(resolved_experiment(), snapshot(done))
    assert [arm.name for arm in plan.arms] == ["base", "base2", "human", plan.arms[3].name]
    assert plan.arms[3].name == f"tree-{hex_id('same')[:12]}"
    assert plan.arms[3].trials == (
        "t1/a/attempt-1", "t1/a/attempt-2", "t1/b/attempt-1", "t1/b/attempt-2",
    )  # fmt: skip


def test_the_humans_own_tree_takes_the_controls_place_under_its_name():
    done = [journal("t1/oracle/attempt-1", patch(human_tree())), *_agents_trees("a")]
    (plan,) = _plans(resolved_experiment(), snapshot(done))
    assert [arm.name for arm in plan.arms][:3] == list(CONTROLS)
    assert plan.arms[2].trials == ("t1/oracle/attempt-1",)
    assert len(plan.arms) == 4


def test_the_humans_tree_alone_is_a_session_and_is_not_measured_twice():
    resolved = resolved_experiment()
    done = [journal("t1/oracle/attempt-1", patch(human_tree()))]
    sessions = sessions_of(resolved.tasks["t1"], done)
    assert [arm.name for arm in sessions[0].arms] == list(CONTROLS)
    assert _plans(resolved, snapshot(done, sessions)) == []


def test_a_control_of_an_earlier_session_is_no_measurement_of_a_trial():
    """The yardstick was there before any trial yielded its tree: that sample scores nobody."""
    resolved = resolved_experiment()
    earlier = sessions_of(resolved.tasks["t1"], _agents_trees("a"))
    late = journal("t1/oracle/attempt-1", patch(human_tree()))
    (plan,) = _plans(resolved, snapshot([*_agents_trees("a"), late], earlier))
    assert [arm.name for arm in plan.arms] == list(CONTROLS)
    assert plan.arms[2].trials == ("t1/oracle/attempt-1",)


def test_no_patch_and_what_does_not_apply_are_never_measured():
    done = [
        journal("t1/nop/attempt-1"),
        journal("t1/nop/attempt-2", patch(base_tree())),
        journal("t1/stale/attempt-1", patch(None)),
    ]
    assert _plans(resolved_experiment(), snapshot(done)) == []
    with_one = _plans(resolved_experiment(), snapshot([*done, *_agents_trees("a")]))
    assert [len(plan.arms) for plan in with_one] == [4]


def test_a_patch_that_an_agent_left_when_its_time_was_up_is_measured():
    done = [journal("t1/slow/attempt-1", patch(hex_id("s")), outcome=Outcome.TIMEOUT)]
    assert len(_plans(resolved_experiment(), snapshot(done))) == 1


@pytest.mark.parametrize(("trees", "arms"), [(5, [8]), (6, [8, 4]), (10, [8, 8]), (12, [8, 8, 5])])
@pytest.mark.parametrize("with_human", [False, True])
def test_many_trees_are_split_by_ascending_hash_each_part_with_its_own_controls(
    trees, arms, with_human
):
    done = _agents_trees("abcdefghijkl"[:trees])
    if with_human:
        done.append(journal("t1/oracle/attempt-1", patch(human_tree())))
    plans = _plans(resolved_experiment(), snapshot(done))
    assert [len(plan.arms) for plan in plans] == arms
    assert max(arms) <= MAX_ARMS
    assert all(tuple(arm.name for arm in plan.arms[:3]) == CONTROLS for plan in plans)
    measured = [arm.tree for plan in plans for arm in plan.arms[3:]]
    assert measured == sorted(hex_id(name) for name in "abcdefghijkl"[:trees])
    assert [bool(plan.arms[2].trials) for plan in plans] == [
        with_human and n == 0 for n in range(len(plans))
    ]
    assert len({plan.session_id for plan in plans}) == len(plans)


@given(names=st.sets(st.sampled_from("abcdefghijklmnop")), human=st.booleans(), empty=st.booleans())
def test_every_measurable_tree_is_in_exactly_one_planned_session(names, human, empty):
    done = _agents_trees("".join(names))
    done += [journal("t1/oracle/attempt-1", patch(human_tree()))] if human else []
    done += [journal("t1/nop/attempt-1")] if empty else []
    plans = _plans(resolved_experiment(), snapshot(done))
    trials = Counter(t for plan in plans for arm in plan.arms for t in arm.trials)
    wanted = {j.trial_id for j in done if j.patch is not None}
    assert trials == Counter(wanted)
    assert all(len(plan.arms) <= MAX_ARMS for plan in plans)
    sessions = [session_record(plan) for plan in plans]
    assert _plans(resolved_experiment(), snapshot(done, sessions)) == []


# Identity


def test_a_completed_session_under_other_conditions_does_not_count():
    old = resolved_experiment(measure={"margin_ratio": 0.1})
    new = resolved_experiment()
    sessions = sessions_of(old.tasks["t1"], _agents_trees("a"))
    assert _plans(old, snapshot(_agents_trees("a"), sessions)) == []
    assert len(_plans(new, snapshot(_agents_trees("a"), sessions))) == 1
    admissions = [admission(old.tasks["t1"])]
    items = _open(new, snapshot(_agents_trees("a"), sessions, admissions))
    assert len(_ids(items, "admission")) == 1


def test_the_admission_has_its_own_seed_and_no_arms_of_trials():
    resolved = resolved_experiment()
    plan = admission_plan(resolved.tasks["t1"])
    assert plan is not None
    assert tuple(arm.name for arm in plan.arms) == CONTROLS
    oracle = journal("t1/oracle/attempt-1", patch(human_tree()))
    (session,) = _plans(resolved, snapshot([oracle]))
    assert [arm.tree for arm in session.arms] == [arm.tree for arm in plan.arms]
    assert session.seed != plan.seed
    assert session.session_id != plan.session_id


def test_tasks_that_differ_in_their_instruction_alone_have_sessions_of_their_own():
    """A study of prompts: equal trees and conditions, but two tasks with two rows each."""
    same = {"base_commit": hex_id("base"), "human_commit": hex_id("human")}
    resolved = resolved_experiment(task_row("short", **same), task_row("long", **same))
    short, long = resolved.tasks.values()
    assert short.resolved is not None
    settings = resolved.loaded.experiment
    conditions = measure_conditions(long.task, short.files, short.resolved, settings)
    twin = long._replace(resolved=short.resolved, conditions=conditions)
    one, two = admission_plan(short), admission_plan(twin)
    assert one is not None
    assert two is not None
    assert one.session_id != two.session_id  # the key of the tables `sessions` and `admissions`
    assert snapshot((), (), [session_record(one)]).admission(two) is None


def test_planning_again_gives_the_same_ids_seeds_and_order():
    def all_items() -> list[WorkItem]:
        resolved = resolved_experiment(
            task_row("t1"), task_row("t2"), agents=scripted("a", "b", "c"), attempts=3
        )
        done = [journal("t1/a/attempt-1", patch(hex_id("a")))]
        admissions = [admission(planned) for planned in resolved.tasks.values()]
        return _open(resolved, snapshot(done, (), admissions), stages=("solve", "measure"))

    assert all_items() == all_items()


def test_the_order_of_agents_and_attempts_is_drawn_by_seed_and_within_a_task():
    def order(seed: int) -> list[str]:
        resolved = resolved_experiment(
            task_row("z"), task_row("a"), agents=scripted("a", "b", "c"), attempts=4, seed=seed
        )
        return [i.key.work_id for i in _open(resolved, stages=("solve",))]

    first, other = order(1), order(2)
    assert first == order(1)
    assert sorted(first) == sorted(other)
    assert first != other
    assert first[:12] != sorted(first[:12])
    assert [trial.split("/")[0] for trial in first] == ["z"] * 12 + ["a"] * 12


def test_within_a_task_trials_and_admission_come_before_the_next_task():
    resolved = resolved_experiment(task_row("t1"), task_row("t2"))
    tasks = [item.task_id for item in _open(resolved)]
    assert tasks == sorted(tasks)


def test_a_label_says_what_people_look_for():
    items = {item.key.work: item for item in _open(resolved_experiment(agents=scripted("a")))}
    assert items["trial"].label == "t1/a/attempt-1"
    assert items["admission"].label == "t1 (admission)"
