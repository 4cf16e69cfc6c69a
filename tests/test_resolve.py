"""From an experiment file to what a plan needs: full hashes, damaged places, and path rules."""

from __future__ import annotations

from pathlib import Path

import pyarrow.dataset
import pytest

from isobench_ray import api
from isobench_ray.experiment_file import load_experiment
from isobench_ray.failure import FailureClass
from isobench_ray.lock import Lock, read_lock
from isobench_ray.planning import ResolvedExperiment
from isobench_ray.resolve import make_lock, resolve_experiment
from isobench_ray.results import Results, Snapshot, open_results
from isobench_ray.stages.solve import SolveWork, solve
from tests import builders
from tests.conftest import TinyProject
from tests.fixtures_git import make_node, run_git, tree_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def resolve(path: Path) -> tuple[ResolvedExperiment, Lock]:
    resolved = resolve_experiment(load_experiment(path))
    return resolved, make_lock(resolved, None, Snapshot({}, [], [], []))


@pytest.mark.parametrize("digits", [7, 20, 40])
@pytest.mark.parametrize("base", ["hash", "parent", None])
def test_plan_lock_and_journal_hold_full_hashes_whatever_the_task_wrote(
    digits, base, tiny, tmp_path
):
    row = tiny.task(human_commit=tiny.human[:digits], base_commit=tiny.base[:digits])
    row |= {"base_commit": "parent"} if base == "parent" else {}
    if base is None:
        del row["base_commit"]
    expected, _ = resolve(tiny.write())
    resolved, lock = resolve(tiny.write([row]))
    planned = resolved.tasks["sum"]
    assert (planned.task.base_commit, planned.task.human_commit) == (tiny.base, tiny.human)
    (locked,) = lock.tasks
    assert (locked.base_commit, locked.human_commit) == (tiny.base, tiny.human)
    assert locked.base_tree == tree_of(tiny.folder / "tiny", tiny.base)
    assert planned.conditions == expected.tasks["sum"].conditions
    assert lock.trials == make_lock(expected, None, Snapshot({}, [], [], [])).trials
    trial = resolved.trials["sum/oracle/attempt-1"]
    work = SolveWork(
        trial.trial, planned.task, planned.files, "oracle", trial.agent, trial.prompt, 9, 1
    )
    (tmp_path / "artifacts").mkdir()
    base_of_task = planned.repository.bake(planned.resolved.base_tree)
    journal = solve(work, base_of_task, 1, make_node(tmp_path / "node"), tmp_path / "artifacts")
    assert (journal.base_commit, journal.human_commit) == (tiny.base, tiny.human)
    assert (journal.commits.pre, journal.commits.human) == (tiny.base, tiny.human)


def test_a_damaged_repository_is_a_failure_of_its_tasks_and_of_no_other(tiny):
    place = tiny.folder / "tiny"
    copy = tiny.folder / "copy"
    run_git(tiny.folder, "clone", "--quiet", "--bare", "--no-hardlinks", str(place), str(copy))
    blob = run_git(place, "rev-parse", f"{tiny.human}:adding.py")
    broken = place / ".git" / "objects" / blob[:2] / blob[2:]
    broken.chmod(0o600)
    broken.write_bytes(b"damaged")
    other = tiny.task(task_id="other", repository="https://example.invalid/copy.git")
    places = {
        "https://example.invalid/tiny.git": "tiny",
        "https://example.invalid/copy.git": "copy",
    }
    resolved, lock = resolve(tiny.write([tiny.task(), other], repositories=places))
    failure = resolved.tasks["sum"].failure
    assert failure.failure_class is FailureClass.REPOSITORY_UNAVAILABLE
    assert "https://example.invalid/tiny.git" in failure.message
    assert blob in failure.message
    assert resolved.tasks["other"].failure is None
    assert [task.failure is None for task in lock.tasks] == [True, False]


# What a patch may change


def finished(path: Path) -> Results:
    """Results in which both trials have ended: nop without a patch, oracle outside of its files."""
    resolved, _ = resolve(path)
    planned = resolved.tasks["sum"]
    journals = []
    for trial_id, trial in resolved.trials.items():
        yielded = None
        if trial.spec.kind == "oracle":
            trees = {"tree": planned.resolved.human_tree, "base_tree": planned.resolved.base_tree}
            yielded = builders.patch(**trees, files=("adding.py", "docs/notes.md"))
        identity = trial.trial.solve_identity
        journals.append(builders.journal(trial_id, yielded, solve_identity=identity))
    what = builders.snapshot(
        journals, builders.sessions_of(planned, journals), [builders.admission(planned)]
    )
    return builders.stored(path.parent / "experiment-results", resolved, what)


def verdicts(results: Results) -> dict[str, tuple[str, bool]]:
    """Validity and `passed` by trial, as the tables say."""
    table = pyarrow.dataset.dataset(Path(results.uri) / "dataset" / "verdicts").to_table()
    return {row["trial_id"]: (row["validity"], row["passed"]) for row in table.to_pylist()}


def records(results: Results) -> dict[str, bytes]:
    """Everything that a trial or a session left."""
    kinds = ("trials", "sessions", "admissions")
    root = Path(results.uri)
    found = [p for kind in kinds for p in (root / kind).rglob("*") if p.is_file()]
    return {str(p.relative_to(root)): p.read_bytes() for p in found}


def test_enforcing_a_rule_later_gives_new_verdicts_and_no_new_trial(tiny: TinyProject):
    rows = [tiny.task(target_files=["*.py"], protected_paths=["tests/"])]
    path = tiny.write(rows)
    results = finished(path)
    before = records(results)
    assert api.run(load_experiment(path)).exit_code == 0
    oracle, nop = "sum/oracle/attempt-1", "sum/nop/attempt-1"
    assert verdicts(results) == {oracle: ("ok", True), nop: ("no_patch", False)}
    for enforce, validity in (
        (["target_files"], "quarantined"),
        (["protected_paths"], "ok"),
        (["protected_paths", "target_files"], "quarantined"),
        ([], "ok"),
    ):
        path = tiny.write(rows, patch={"enforce": enforce})
        assert api.plan(load_experiment(path)).open_work == []
        assert api.run(load_experiment(path)).exit_code == 0
        assert read_lock(results).analysis.enforce == tuple(enforce)
        assert verdicts(results) == {oracle: (validity, validity == "ok"), nop: ("no_patch", False)}
        report = (Path(results.uri) / "report.md").read_text()
        assert ("| quarantined |" in report) == (validity == "quarantined")
    assert records(results) == before


def test_rules_of_a_task_can_be_changed_without_a_new_trial(tiny: TinyProject):
    path = tiny.write([tiny.task(target_files=["*.py"])], patch={"enforce": ["target_files"]})
    results = finished(path)
    api.run(load_experiment(path))
    assert verdicts(results)["sum/oracle/attempt-1"] == ("quarantined", False)
    path = tiny.write(
        [tiny.task(target_files=["*.py", "docs/"])], patch={"enforce": ["target_files"]}
    )
    api.run(load_experiment(path))
    assert verdicts(open_results(results.uri))["sum/oracle/attempt-1"] == ("ok", True)
