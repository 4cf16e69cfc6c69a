"""The README's examples, run: the experiment, the task, both Python blocks and the SQL."""

from __future__ import annotations

import json
import re
from pathlib import Path

import duckdb
import pytest

import isobench_ray
from isobench_ray.agents import AGENTS
from isobench_ray.dataset import rebuild
from isobench_ray.experiment import AgentSpec
from isobench_ray.experiment_file import load_experiment
from isobench_ray.lock import read_lock
from isobench_ray.prompt import render_prompt
from isobench_ray.stages.solve import SolveWork, solve
from isobench_ray.task import Task, TaskFiles
from isobench_ray.trial import Outcome, Trial
from tests.builders import scenario
from tests.fixtures_git import bake, make_history, make_node, make_task

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_no_placeholder_is_left():
    assert "@@" not in README


def test_the_experiment_is_valid_with_the_settings_that_follow(tmp_path):
    experiment, settings = blocks("yaml")
    (tmp_path / "experiment.yaml").write_text(experiment + settings)
    loaded = load_experiment(tmp_path / "experiment.yaml").experiment
    assert (loaded.name, loaded.patch.max_file_mb) == ("my-experiment", 20)


def test_the_task_is_valid_once_it_has_a_real_hash():
    (block,) = blocks("json")
    assert Task.model_validate(json.loads(block.replace("<hash>", "a" * 40)))


def test_the_python_example_prints_the_counts(tmp_path, capsys):
    results = scenario(tmp_path / "results").results
    code = blocks("python")[0].replace("experiments/quickstart-results", results.uri)
    exec(compile(code, "README.md", "exec"), {})
    assert "'patch':" in capsys.readouterr().out
    assert set(isobench_ray.__all__) >= {"open_results", "report", "run", "plan"}


def test_the_sql_counts_passed_trials(tmp_path):
    results = scenario(tmp_path / "results").results
    rebuild(results, read_lock(results), results.snapshot(), 1)
    (query,) = blocks("sql")
    with duckdb.connect() as connection:
        rows = connection.sql(query.replace("experiments/quickstart-results", results.uri))
        assert ("oracle", 1, 1) in rows.fetchall()


def test_the_example_agent_leaves_its_patch(tmp_path):
    scope: dict = {}
    exec(compile(blocks("python")[1], "README.md", "exec"), scope)
    history = make_history(tmp_path / "origin", {"a.py": "a\n"}, {"a.py": "b\n"})
    baked, task = bake(history, tmp_path / "cache"), make_task(history)
    AGENTS["shouter"] = scope["Shouter"]()
    try:
        agent = AGENTS["shouter"].load(
            AgentSpec(name="robot", kind="nop"), task, b"", lambda name: b""
        )
        work = SolveWork(
            trial=Trial(task_id="tiny", agent="robot", attempt=1, solve_identity="5" * 64),
            task=task,
            task_files=TaskFiles(),
            agent_kind="shouter",
            agent=agent,
            prompt=render_prompt(task, 60),
            agent_wall_s=60,
            concurrency=1,
        )
        (tmp_path / "artifacts").mkdir()
        record = solve(work, baked.base, 1, make_node(tmp_path / "node"), tmp_path / "artifacts")
    finally:
        del AGENTS["shouter"]
    assert record.outcome is Outcome.PATCH
    assert record.patch is not None
    assert record.patch.files == ("SHOUT",)


@pytest.mark.parametrize(
    "name", ["make demo", "make test", "make bench", "make calibrate", "make audit-history"]
)
def test_every_make_target_that_is_named_exists(name):
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    assert re.search(rf"^{name.split()[1]}:", makefile, re.MULTILINE)
    assert name in README
