"""The measure stage from end to end: real arms whose speed is a constant in their tree.

The workload sums a range `ROUNDS` times, so an arm with a third of the rounds is three times as
fast. Six blocks of three passes decide only about such large effects; no test asks for more.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from isobench_ray.errors import FailureRaised
from isobench_ray.experiment import MeasureSettings
from isobench_ray.failure import FailureClass
from isobench_ray.patches import describe_patch
from isobench_ray.session import ArmPlan, Scoreable, SessionPlan, SessionRecord, session_plan
from isobench_ray.stages.measure import MeasureWork, block_seed, measure
from isobench_ray.statistics import log_ratios
from isobench_ray.task import TaskFiles
from isobench_ray.verdict import Validity, VsBase, VsHuman, judge_trial
from isobench_ray.workloads import ArmSource, BlockConditions
from isobench_ray.workspace import open_harness
from tests import builders
from tests.fixtures_git import (
    Baked,
    bake,
    commit_all,
    make_history,
    make_node,
    make_task,
    require_bubblewrap,
    run_git,
    tree_of,
    write_all,
)

SOURCE = """
ROUNDS = {rounds}

def answer():
    return {answer}

def work():
    for _ in range(ROUNDS):
        sum(range(4000))
"""
WORKLOAD = """
import tiny

def setup(seed):
    return seed

def run(state):
    tiny.work()
"""
CHECK = """
import os, sys
sys.path.insert(0, os.getcwd())
import tiny
if tiny.answer() != 42:
    sys.exit(f"wrong answer: {tiny.answer()}")
"""
FILES = TaskFiles(files={"workload.py": WORKLOAD.encode(), "check.py": CHECK.encode()})
PYTHON = {"kind": "python", "files": "task/", "passes": 3, "warmup_passes": 1}
CHECKED = {"command": "python $ISOBENCH_TASK/check.py", "files": "task/"}
SETTINGS = MeasureSettings.model_validate({"blocks": {"pilot": 6, "max": 6}})


def source(rounds: int, answer: str = "42", extra: str = "") -> str:
    return SOURCE.format(rounds=rounds, answer=answer) + extra


ARMS = {
    "bigger": source(9),
    "slower": source(270),
    "equal": source(30, extra="# the same, with a comment\n"),
    "wrong": source(1, answer="41"),
    "crashing": source(1, extra="def work():\n    raise RuntimeError('no engine')\n"),
}


class Project(NamedTuple):
    """A task that can be measured, with the trees of its arms."""

    folder: Path
    task: Any
    baked: Baked
    trees: dict[str, str]
    patches: dict[str, bytes]

    def plan(self, *arms: str, kind: str = "measure") -> SessionPlan:
        resolved = self.baked.resolved
        controls = {
            "base": resolved.base_tree,
            "base2": resolved.base_tree,
            "human": resolved.human_tree,
        }
        named = tuple(
            ArmPlan(name=arm, tree=self.trees[arm], trials=(f"tiny/{arm}/attempt-1",))
            for arm in arms
        )
        return session_plan(kind, "tiny", "c" * 64, controls, named)

    def measure(
        self, *arms: str, kind: str = "measure", sandbox: str = "none", name: str = "node",
        settings: MeasureSettings = SETTINGS, **limits: float,
    ) -> SessionRecord:  # fmt: skip
        artifacts = self.folder / f"{name}-artifacts"
        artifacts.mkdir()
        node = make_node(self.folder / name, sandbox, **limits)
        plan = self.plan(*arms, kind=kind)
        work = MeasureWork(plan, self.task, FILES, self.patches, settings, "admission-1")
        try:
            return measure(work, self.baked.base, 4, node, artifacts)
        finally:
            assert not (node.scratch / "session").exists()
            assert list(node.ledger.glob("*")) == []

    def refused(self, **options: Any) -> tuple[FailureClass, str]:
        with pytest.raises(FailureRaised) as raised:
            self.measure(**options)
        return raised.value.failure.failure_class, raised.value.failure.message


def make_project(
    folder: Path, base: str = source(90), human: str = source(30),
    arms: dict[str, str] | None = None, **changes: Any,
) -> Project:  # fmt: skip
    folder.mkdir(exist_ok=True)
    history = make_history(folder / "origin", {"tiny.py": base}, {"tiny.py": human})
    baked = bake(history, folder / "cache")
    task = make_task(history, **({"workload": PYTHON, "check": CHECKED} | changes))
    patches = {baked.resolved.human_tree: baked.resolved.human_diff}
    trees, harness = {}, open_harness(baked.base, folder / "harness.git")
    for name, text in (arms or {}).items():
        run_git(history.folder, "checkout", "--quiet", history.base)
        write_all(history.folder, {"tiny.py": text})
        commit_all(history.folder, name)
        diff = run_git(history.folder, "diff", "--binary", history.base, "HEAD") + "\n"
        trees[name] = tree_of(history.folder)
        patches[trees[name]] = diff.encode()
        assert describe_patch(harness, baked.base.tree, diff.encode()).patch.tree == trees[name]
    return Project(folder, task, baked, trees, patches)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    return make_project(tmp_path_factory.mktemp("project") / "tiny", arms=ARMS)


@pytest.fixture(scope="module")
def session(project) -> SessionRecord:
    """One session with every kind of arm, for many looks at it."""
    return project.measure(*ARMS, name="session")


def arm(record: SessionRecord, name: str):
    return next(arm for arm in record.arms if arm.name == name)


def verdict(record: SessionRecord, name: str, scoreable: Scoreable = Scoreable.HEADLINE):
    patch = builders.patch(arm(record, name).tree, base_tree=arm(record, "base").tree)
    return judge_trial(("tiny", name, 1), f"tiny/{name}/attempt-1", patch, record, scoreable)


# What a session yields


def test_a_session_says_what_it_measured_and_under_what(project, session):
    assert [a.name for a in session.arms][:3] == ["base", "base2", "human"]
    assert {a.name for a in session.arms[3:]} == set(ARMS)
    assert [a.tree for a in session.arms[3:]] == sorted(project.trees.values())
    assert (session.kind, session.execution, session.admission_id) == ("measure", 4, "admission-1")
    assert (session.metric, session.better, session.n_blocks) == ("pass_ms", "lower", 6)
    plan = project.plan(*ARMS)
    assert (session.seed, session.identity) == (plan.seed, plan.identity)
    assert session.scoreable is None
    assert session.ended_at > session.started_at
    assert arm(session, "equal").trials == ("tiny/equal/attempt-1",)
    assert SessionRecord.model_validate_json(session.to_json()) == session


def test_large_effects_get_their_verdicts(session):
    bigger, slower, equal = (verdict(session, name) for name in ("bigger", "slower", "equal"))
    assert (bigger.vs_base, bigger.vs_human, bigger.passed) == (VsBase.FASTER, VsHuman.BEATS, True)
    assert (slower.vs_base, slower.vs_human, slower.passed) == (VsBase.SLOWER, VsHuman.WORSE, False)
    assert equal.vs_base is VsBase.FASTER
    assert arm(session, "human").vs_base.low > 0
    assert arm(session, "bigger").vs_base.speedup == pytest.approx(10, rel=0.5)
    assert arm(session, "slower").vs_base.speedup == pytest.approx(1 / 3, rel=0.5)
    assert abs(arm(session, "base2").vs_base.mean) < math.log(2)


def test_an_arm_that_fails_its_check_is_incorrect_and_never_timed(session, project):
    found = arm(session, "wrong")
    assert not found.correct
    assert "the check ended with status 1: wrong answer: 41" in found.incorrect_reason
    assert found.vs_base is None
    assert "wrong" not in {sample.arm for sample in session.samples}
    assert verdict(session, "wrong").validity is Validity.INCORRECT
    kept = project.folder / "session-artifacts" / "wrong" / "check" / "stderr.log"
    assert "wrong answer: 41" in kept.read_text()


def test_an_arm_whose_workload_breaks_is_incorrect_and_the_others_are_measured(session, project):
    found = arm(session, "crashing")
    assert not found.correct
    assert found.incorrect_reason.startswith("block 0: the workload ended with status 1")
    assert "no engine" in found.incorrect_reason
    assert "crashing" not in {sample.arm for sample in session.samples}
    assert verdict(session, "crashing").validity is Validity.INCORRECT
    kept = project.folder / "session-artifacts" / "crashing" / "block-0" / "stderr.log"
    assert "no engine" in kept.read_text()
    checks = {check.arm: check.passed for check in session.checks}
    assert checks == {a.name: a.name != "wrong" for a in session.arms}


def test_every_healthy_arm_has_one_sample_per_block_with_its_passes(session):
    healthy = {"base", "base2", "human", "bigger", "slower", "equal"}
    counts = Counter((s.arm, s.block) for s in session.samples)
    assert counts == {(name, block): 1 for name in healthy for block in range(6)}
    for sample in session.samples:
        assert (sample.metric, sample.n_passes, len(sample.passes)) == ("pass_ms", 3, 3)
        assert min(sample.passes) <= sample.value <= max(sample.passes)
        assert sample.outside_s * 1000 >= sum(sample.passes)


def test_the_contrasts_are_those_of_the_stored_passes(session):
    passes = {(s.arm, s.block): s.passes for s in session.samples}
    for name in ("human", "bigger", "slower"):
        ratios = [
            sorted(log_ratios(passes[name, b], passes["base", b], lower_is_better=True))[1]
            for b in range(6)
        ]
        found = arm(session, name).vs_base
        assert found.mean == pytest.approx(math.fsum(ratios) / 6)
        assert (found.n_blocks, found.n_pilot) == (6, 6)
        assert found.low < found.mean < found.high


def test_controls_have_no_contrast_with_the_human_and_base_none_at_all(session):
    assert arm(session, "base").vs_base is None
    for name in ("base", "base2", "human"):
        assert arm(session, name).vs_human is None
        assert arm(session, name).correct
    for name in ("bigger", "slower", "equal"):
        assert arm(session, name).vs_half_human is not None


# Admission


def test_an_admission_finds_a_real_gain_scoreable(project):
    record = project.measure(kind="admission", name="admission")
    assert record.scoreable is Scoreable.HEADLINE
    assert [a.name for a in record.arms] == ["base", "base2", "human"]
    assert record.seed != project.plan("bigger").seed


def test_an_admission_finds_a_human_that_made_it_slower_not_scoreable(tmp_path):
    project = make_project(tmp_path / "p", base=source(30), human=source(90))
    assert project.measure(kind="admission").scoreable is Scoreable.NOT_SCOREABLE


# Controls that are broken are Failures, not verdicts


def test_a_check_that_fails_on_base_is_the_tasks_failure(tmp_path):
    project = make_project(tmp_path / "p", base=source(90, answer="0"))
    kind, message = project.refused()
    assert kind is FailureClass.BASE_CHECK_FAILED
    assert message.startswith("base: the check ended with status 1: wrong answer: 0")


def test_a_check_that_fails_on_the_humans_tree_is_the_tasks_failure(tmp_path):
    project = make_project(tmp_path / "p", human=source(30, answer="0"))
    kind, message = project.refused()
    assert kind is FailureClass.HUMAN_CHECK_FAILED
    assert "wrong answer: 0" in message


BROKEN = "def work():\n    raise RuntimeError('no engine')\n"


@pytest.mark.parametrize(
    ("which", "wanted"),
    [
        ("base", FailureClass.BASE_WORKLOAD_FAILED),
        ("human", FailureClass.HUMAN_WORKLOAD_FAILED),
    ],
)
def test_a_workload_that_fails_on_a_control_is_the_tasks_failure(tmp_path, which, wanted):
    project = make_project(tmp_path / "p", **{which: source(5, extra=BROKEN)})
    kind, message = project.refused()
    assert kind is wanted
    assert message.startswith(f"{which}")
    assert "no engine" in message


def test_a_check_over_its_limit_is_told_with_the_limit(tmp_path):
    project = make_project(tmp_path / "p", check={"command": "sleep 60"})
    kind, message = project.refused(check_s=0.5)
    assert kind is FailureClass.BASE_CHECK_FAILED
    assert "the check took more than 0.5 s" in message


def test_an_arm_over_the_workloads_limit_is_incorrect(tmp_path):
    slow = source(1, extra="import time\ndef work():\n    time.sleep(60)\n")
    project = make_project(tmp_path / "p", arms={"stuck": slow})
    record = project.measure("stuck", workload_s=2)
    assert arm(record, "stuck").incorrect_reason == "block 0: the workload took more than 2 s"
    assert record.n_blocks == 6
    assert arm(record, "human").correct


def test_a_patch_that_gives_another_tree_than_planned_is_our_own_failure(project):
    swapped = {project.trees["bigger"]: project.patches[project.trees["slower"]]}
    other = project._replace(patches=project.patches | swapped)
    with pytest.raises(FailureRaised) as raised:
        other.measure("bigger", name="swapped")
    assert raised.value.failure.failure_class is FailureClass.TREE_MISMATCH


# Command workloads


def metrics(command: str) -> dict[str, Any]:
    declared = {"speed": {"better": "higher", "primary": True}, "latency": {"better": "lower"}}
    return {"workload": {"command": command, "metrics": declared}}


SEED = "int(__import__('os').environ['ISOBENCH_SEED'])"
NOISY = '{"speed": %f, "latency": 2}'
WRITE = "python -c 'import tiny; print(tiny.answer())' > $ISOBENCH_METRICS"


def test_a_command_workload_where_higher_is_better(tmp_path):
    command = (
        "python -c 'import random, sys, tiny; seed = random.random(); "
        'print("{\\"speed\\": %f, \\"latency\\": 2}" % (1000 / tiny.ROUNDS + seed))\' '
        "> $ISOBENCH_METRICS"
    )
    project = make_project(
        tmp_path / "p", arms={"bigger": source(10)}, check={"command": "true"}, **metrics(command)
    )
    record = project.measure("bigger")
    assert (record.metric, record.better) == ("speed", "higher")
    assert arm(record, "human").vs_base.low > 0
    assert arm(record, "bigger").vs_human.low > 0
    assert {s.metric for s in record.samples} == {"speed", "latency"}
    assert {s.n_passes for s in record.samples} == {1}
    assert len(record.samples) == 6 * 4 * 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"speed": NaN, "latency": 2}', "metric speed must be a positive, finite number; got nan"),
        ('{"speed": 0, "latency": 2}', "metric speed must be a positive, finite number; got 0"),
        ('{"latency": 2}', "metric speed must be a positive, finite number; got None"),
        ("fast, really", "is not JSON"),
        ("", "is not JSON"),
    ],
)
def test_an_arm_with_unusable_metrics_is_incorrect_and_a_control_a_failure(tmp_path, text, words):
    good = '{"speed": 5, "latency": 2}'
    arms = {"odd": source(1, answer=repr(text))}
    base, human = source(90, answer=repr(good)), source(30, answer=repr(good))
    changes = metrics(WRITE) | {"check": {"command": "true"}}
    project = make_project(tmp_path / "p", base=base, human=human, arms=arms, **changes)
    found = arm(project.measure("odd"), "odd")
    assert not found.correct
    assert words in found.incorrect_reason
    project = make_project(tmp_path / "q", base=base, human=arms["odd"], **changes)
    kind, message = project.refused()
    assert kind is FailureClass.HUMAN_WORKLOAD_FAILED
    assert words in message


def test_an_arm_that_breaks_in_a_later_block_has_no_samples_at_all(tmp_path):
    good = '{"speed": 5, "latency": 2}'
    flaky = source(1, answer=f"{good!r} if {SEED} % 2 else 1")
    project = make_project(
        tmp_path / "p", base=source(1, answer=repr(good)), human=source(2, answer=repr(good)),
        arms={"flaky": flaky}, check={"command": "true"}, **metrics(WRITE),
    )  # fmt: skip
    settings = MeasureSettings.model_validate({"blocks": {"pilot": 5, "max": 5}})
    seeds = [block_seed(project.plan("flaky").seed, number) % 2 for number in range(5)]
    assert set(seeds) == {0, 1}
    record = project.measure("flaky", settings=settings)
    assert arm(record, "flaky").incorrect_reason.startswith(f"block {seeds.index(0)}: ")
    assert {s.arm for s in record.samples} == {"base", "base2", "human"}
    assert record.n_blocks == 5


# Numbers of blocks, seeds and orders


def test_the_pilot_is_followed_by_as_many_blocks_as_its_variance_asks_for(tmp_path):
    steady = '{"speed": 5, "latency": 2}'
    noisy = f"{NOISY!r} % (1 + {SEED} % 97)"
    settings = MeasureSettings.model_validate({"blocks": {"pilot": 3, "max": 5}})
    changes = metrics(WRITE) | {"check": {"command": "true"}}
    calm = make_project(tmp_path / "p", source(1, repr(steady)), source(2, repr(steady)), **changes)
    assert calm.measure(settings=settings).n_blocks == 3
    wild = make_project(tmp_path / "q", source(1, repr(steady)), source(2, noisy), **changes)
    record = wild.measure(settings=settings)
    assert record.n_blocks == 5
    assert (arm(record, "human").vs_base.n_blocks, arm(record, "human").vs_base.n_pilot) == (5, 3)


def test_block_seeds_are_distinct_over_blocks_and_sessions_and_fit_63_bits():
    sessions = [int(builders.hex_id(str(n))[:12], 16) for n in range(200)] + [0, 1, 2**48 - 1]
    seeds = [block_seed(session, block) for session in sessions for block in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert block_seed(7, 3) == block_seed(7, 3)


def test_over_the_blocks_of_a_session_every_arm_stands_in_every_place(project):
    arms = [ArmSource(name, Path()) for name in ("base", "base2", "human", "tree-1")]
    counts: Counter[tuple[str, int]] = Counter()
    for number in range(800):
        seed = block_seed(project.plan("bigger").seed, number)
        conditions = BlockConditions(None, None, seed, 1.0, Path())
        order = conditions.shuffled(arms)
        assert order == conditions.shuffled(arms)
        counts.update((arm.name, place) for place, arm in enumerate(order))
    assert len(counts) == 16
    assert all(140 < count < 260 for count in counts.values())  # 200 expected, sd 12


def test_a_repeated_execution_has_the_same_orders(project, session):
    again = project.measure(*ARMS, name="again")
    places = [{(s.block, s.arm): s.position for s in r.samples} for r in (session, again)]
    assert places[0] == places[1]
    orders = [tuple(sorted((p, a) for (b, a), p in places[0].items() if b == n)) for n in range(3)]
    assert len(set(orders)) > 1
    assert again.seed == session.seed


# Containment


@pytest.mark.sandbox
def test_in_the_sandbox_the_same_session_has_the_same_shape(project):
    require_bubblewrap()
    record = project.measure("bigger", "wrong", name="contained", sandbox="auto")
    assert record.sandbox.mechanism == "bubblewrap"
    assert verdict(record, "bigger").passed
    assert "wrong answer: 41" in arm(record, "wrong").incorrect_reason
    assert len(record.samples) == 6 * 4


LINKING = """
def answer():
    import os, sys
    planted = 0
    home = os.environ["HOME"]
    for folder in (home, os.environ["TMPDIR"], os.path.dirname(home), os.getcwd()):
        for name in ("stdout.log", "stderr.log", "metrics.json"):
            place = os.path.join(folder, name)
            try:
                if os.path.lexists(place):
                    os.remove(place)
                os.symlink({target!r}, place)
                planted += 1
            except OSError:
                pass
    sys.exit(f"planted {{planted}} links")
"""


@pytest.mark.sandbox
def test_an_arm_cannot_have_the_harness_read_a_file_for_it(tmp_path):
    require_bubblewrap()
    secret = tmp_path / "secret"
    secret.write_text("key of the harness")
    arms = {"thief": source(1, extra=LINKING.format(target=str(secret)))}
    project = make_project(tmp_path / "p", arms=arms)
    record = project.measure("thief", sandbox="auto")
    found = arm(record, "thief").incorrect_reason
    assert re.search(r"planted [1-9]\d* links", found)  # it did try, and its words still arrive
    assert "key of the harness" not in record.to_json().decode()
    for path in (project.folder / "node-artifacts").rglob("*.log"):
        assert "key of the harness" not in path.read_text()
