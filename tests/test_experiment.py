"""Experiment files: what is read, and the one clear message for each thing that is wrong."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from isobench_ray.errors import UserError
from isobench_ray.experiment_file import LoadedExperiment, load_experiment

GOOD = """\
name: exp
tasks:
  from: tasks.jsonl
agents:
  - {name: nop, kind: nop}
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "exp.yaml"
        path.write_text(text)
        return path

    return write


def _message(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_experiment(path, overrides)
    return str(caught.value)


def _load(path: Path, *overrides: str) -> LoadedExperiment:
    return load_experiment(path, overrides)


def test_a_small_file_is_an_experiment_with_all_defaults(write):
    loaded = _load(write(GOOD))
    assert loaded.experiment.attempts == 1
    assert loaded.experiment.measure.margin_ratio == 0.05
    assert (loaded.experiment.measure.blocks.pilot, loaded.experiment.measure.blocks.max) == (7, 15)
    assert loaded.text == GOOD


def test_paths_are_relative_to_the_file_wherever_one_stands(write, tmp_path, monkeypatch):
    path = write(GOOD)
    monkeypatch.chdir(tmp_path.parent)
    loaded = _load(Path(os.path.relpath(path)))
    assert loaded.resolve("a/../tasks.jsonl") == tmp_path / "tasks.jsonl"
    assert loaded.results_uri == str(tmp_path / "exp-results")
    assert _load(path, "results=out").results_uri == str(tmp_path / "out")
    assert _load(path, "results=s3://b/p").results_uri == "s3://b/p"


BAD = [
    pytest.param("nmae: x\n", 6, "nmae", "did you mean 'name'?", id="typo at the top"),
    pytest.param(
        "limits:\n  chekc_s: 5\n", 7, "limits.chekc_s", "did you mean 'check_s'?", id="typo inside"
    ),
    pytest.param(
        "resources:\n  solve:\n    cpu: 5\n",
        8,
        "resources.solve.cpu",
        "did you mean 'cpus'?",
        id="typo two levels in",
    ),
    pytest.param("zzz: 1\n", 6, "zzz", "known: name, tasks", id="unknown key without a near one"),
    pytest.param("attempts: many\n", 6, "attempts", "got 'many'", id="wrong type"),
    pytest.param("attempts: 0\n", 6, "attempts", "greater than 0", id="out of range"),
    pytest.param(
        "limits: {check_s: -1}\n", 6, "limits.check_s", "greater than 0", id="negative seconds"
    ),
    pytest.param(
        "measure: {margin_ratio: 5}\n", 6, "measure.margin_ratio", "less than 1", id="5 for 5 %"
    ),
    pytest.param(
        "measure:\n  blocks: {pilot: 9, max: 7}\n",
        7,
        "measure.blocks",
        "max (7) must not be below pilot (9)",
        id="fewer blocks than the pilot",
    ),
    pytest.param("limits: 5\n", 6, "limits", "", id="a number for a mapping"),
    pytest.param("budget: {usd: 300}\n", 6, "budget", "budget is not in this release", id="budget"),
    pytest.param(
        "stop_if: {failures: 0.5}\n", 6, "stop_if", "stop_if is not in this release", id="stop_if"
    ),
    pytest.param(
        "measure:\n  guardrails: {ttft_ms: 0.1}\n",
        7,
        "measure.guardrails",
        "measure.guardrails is not in this release",
        id="guardrails",
    ),
    pytest.param(
        "measure: {hack_checks: {x: 1}}\n",
        6,
        "measure.hack_checks",
        "measure.hack_checks is not in this release",
        id="hack checks",
    ),
    pytest.param(
        "environment: {kind: venv}\n", 6, "environment", "'venv' is not in this release", id="venv"
    ),
    pytest.param(
        "environment: {kind: vllm}\n", 6, "environment", "'vllm' is not in this release", id="vllm"
    ),
    pytest.param(
        "environment: {kind: conda}\n", 6, "environment.kind", "got 'conda'", id="unknown kind"
    ),
    pytest.param(
        "sandbox: {kind: container}\n",
        6,
        "sandbox",
        "'container' is not in this release",
        id="container",
    ),
    pytest.param(
        "sandbox: {network: gateway-only}\n",
        6,
        "sandbox",
        "'gateway-only' is not in this release",
        id="gateway",
    ),
    pytest.param(
        "workspace: {kind: btrfs}\n",
        6,
        "workspace.kind",
        "'auto', 'copy' or 'overlay' (got 'btrfs')",
        id="kind of workspace",
    ),
    pytest.param(
        "workspace:\n  submodules: ignore\n",
        7,
        "workspace.submodules",
        "'empty', 'fill' or 'refuse' (got 'ignore')",
        id="policy for submodules",
    ),
    pytest.param(
        "workspace: {submodule: fill}\n",
        6,
        "workspace.submodule",
        "did you mean 'submodules'?",
        id="typo in workspace",
    ),
    pytest.param(
        "patch:\n  enforce: [protected_paths, target_file]\n",
        7,
        "patch.enforce.1",
        "'target_files' or 'protected_paths' (got 'target_file')",
        id="rule to enforce",
    ),
    pytest.param(
        "patch: {enforce: target_files}\n", 6, "patch.enforce", "'target_files'", id="no list"
    ),
    pytest.param("patch: {exclude: x}\n", 6, "patch.exclude", "got 'x'", id="no list of patterns"),
    pytest.param(
        "patch: {exlude: [x]}\n", 6, "patch.exlude", "did you mean 'exclude'?", id="typo in patch"
    ),
    pytest.param(
        "patch: {max_file_mb: 0}\n", 6, "patch.max_file_mb", "greater than 0", id="no megabyte"
    ),
    pytest.param(
        "patch: {max_total_mb: .inf}\n", 6, "patch.max_total_mb", "finite", id="endless megabytes"
    ),
]


@pytest.mark.parametrize(("text", "line", "field", "words"), BAD)
def test_a_bad_setting_is_one_line_with_file_line_field_and_reason(write, text, line, field, words):
    path = write(GOOD + text)
    message = _message(path)
    assert message.startswith(f"{path}:{line}: {field}: ")
    assert words in message
    assert "\n" not in message


BAD_AGENTS = [
    pytest.param("{kind: nop}", "agents.0.name", "missing", id="no name"),
    pytest.param("{name: a b, kind: nop}", "agents.0.name", "got 'a b'", id="a space in a name"),
    pytest.param("{name: ../a, kind: nop}", "agents.0.name", "got '../a'", id="a path as a name"),
    pytest.param(
        "{name: a, kind: oracel}", "agents.0", "did you mean 'oracle'?", id="kind with a typo"
    ),
    pytest.param(
        "{name: a, kind: zzz}", "agents.0", "known: nop, oracle, scripted", id="unknown kind"
    ),
    pytest.param(
        "{name: a, kind: nop, model: gpt}", "agents.0.model", "not in this release", id="model"
    ),
    pytest.param(
        "{name: a, kind: nop, sampling: {top_p: 1}}",
        "agents.0.sampling",
        "sampling is not in this release",
        id="sampling",
    ),
    pytest.param(
        "{name: a, kind: nop, max_steps: 3}",
        "agents.0.max_steps",
        "max_steps is not in this release",
        id="max_steps",
    ),
    pytest.param(
        "{name: a, kind: scripted}", "agents.0", "scripted, which needs it", id="no steps"
    ),
    pytest.param(
        "{name: a, kind: nop, steps: [{exit: 0}]}",
        "agents.0",
        "`steps` belongs to kind scripted",
        id="steps of a nop",
    ),
    pytest.param(
        "{name: a, kind: scripted, steps: [{run: x, exit: 0}]}",
        "agents.0.steps.0",
        "got run, exit",
        id="two things in a step",
    ),
    pytest.param(
        "{name: a, kind: scripted, steps: [{}]}", "agents.0.steps.0", "got none", id="empty step"
    ),
    pytest.param(
        "{name: a, kind: scripted, steps: [{sleep: 1}]}",
        "agents.0.steps.0.sleep",
        "did you mean 'sleep_s'?",
        id="typo in a step",
    ),
    pytest.param(
        "{name: a, kind: scripted, steps: {t1: [{sleep: 1}]}}",
        "agents.0.steps.t1.0.sleep",
        "did you mean 'sleep_s'?",
        id="typo in a step of one task",
    ),
    pytest.param(
        "{name: a, kind: scripted, steps: [{exit: 256}]}",
        "agents.0.steps.0.exit",
        "less than or equal to 255",
        id="impossible status",
    ),
    pytest.param(
        "{name: a, kind: scripted, steps: 5}", "agents.0.steps", "got 5", id="a number for steps"
    ),
    pytest.param(
        "{name: a, kind: nop, limits: {agent_wal_s: 3}}",
        "agents.0.limits.agent_wal_s",
        "did you mean 'agent_wall_s'?",
        id="typo in an agent's limits",
    ),
    pytest.param(
        "{name: a, kind: nop, select: {id: [x]}}",
        "agents.0.select.id",
        "did you mean 'ids'?",
        id="typo in an agent's selection",
    ),
    *(
        pytest.param(
            f"{{name: a, kind: {kind}}}",
            "agents.0",
            f"agent kind '{kind}' is not in this release",
            id=kind,
        )
        for kind in ("trae", "claude_code", "codex", "mini_swe_agent", "openhands", "predictions")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("agent", "field", "words"), BAD_AGENTS)
def test_a_bad_agent_is_one_line_with_file_line_field_and_reason(write, agent, field, words):
    path = write(GOOD.replace("{name: nop, kind: nop}", agent))
    message = _message(path)
    assert message.startswith(f"{path}:5: {field}: ")
    assert words in message
    assert "\n" not in message


def test_two_agents_of_one_name_are_refused(write):
    message = _message(write(GOOD + "  - {name: nop, kind: oracle}\n"))
    assert "agent names must differ; used more than once: nop" in message


def test_two_mistakes_are_two_lines(write):
    path = write(GOOD + "attempts: 0\nlimits:\n  workload: 3\n")
    lines = _message(path).splitlines()
    assert [re.sub(r": .*", "", line.removeprefix(f"{path}:")) for line in lines] == ["6", "8"]
    assert "did you mean 'workload_s'?" in lines[1]


@pytest.mark.parametrize("missing", ["name", "tasks", "agents"])
def test_what_every_file_needs(write, missing):
    parts = {"name": "name: e\n", "tasks": "tasks: {from: t.jsonl}\n"}
    parts["agents"] = "agents: [{name: a, kind: nop}]\n"
    path = write("".join(text for key, text in parts.items() if key != missing))
    assert f"{missing}: missing, and there is no default" in _message(path)


def test_no_agents_is_no_experiment(write):
    message = _message(write("name: e\ntasks: {from: t.jsonl}\nagents: []\n"))
    assert ":3: agents: " in message
    assert "at least 1 item" in message


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n"])
def test_a_file_that_is_no_mapping_says_what_it_should_be(write, text):
    assert "an experiment file is a mapping (name:, tasks:, agents:, ...)" in _message(write(text))


@pytest.mark.parametrize(
    ("text", "line"), [("name: [a\nb: c\n", 2), ("name: a\n\tb: c\n", 2), ("a: b: c\n", 1)]
)
def test_what_is_not_yaml_says_where_reading_stopped(write, text, line):
    path = write(text)
    assert _message(path).startswith(f"{path}:{line}: not valid YAML: ")


def test_a_date_that_no_calendar_has_is_bad_input_and_no_crash(write):
    path = write(GOOD + "seed: 2026-02-30\n")
    assert _message(path).startswith(f"{path}")


def test_a_key_that_stands_twice_is_refused_with_the_line_of_the_second(write):
    path = write(GOOD + "agents:\n  - {name: b, kind: oracle}\n")
    assert _message(path) == f"{path}:6: not valid YAML: the key 'agents' stands here twice"
    nested = write(GOOD + "limits: {check_s: 1, check_s: 2}\n")
    assert "the key 'check_s' stands here twice" in _message(nested)


def test_files_that_cannot_be_read(tmp_path):
    missing = tmp_path / "none.yaml"
    assert f"{missing}: cannot read the experiment file: " in _message(missing)
    assert "cannot read the experiment file: " in _message(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\n")
    assert "cannot read the experiment file: " in _message(tmp_path / "latin.yaml")


# --set


def test_set_replaces_what_the_file_says_and_what_it_leaves_out(write):
    path = write(GOOD + "limits: {check_s: 5, workload_s: 6}\nattempts: 2\n")
    experiment = _load(path, "limits.check_s=7", "sandbox.kind=none", "attempts=3").experiment
    assert (experiment.limits.check_s, experiment.limits.workload_s) == (7, 6)
    assert experiment.sandbox.kind == "none"
    assert experiment.attempts == 3


def test_of_two_settings_of_one_key_the_later_wins(write):
    assert _load(write(GOOD), "attempts=2", "attempts=5").experiment.attempts == 5


def test_set_takes_yaml_values(write):
    loaded = _load(write(GOOD), "tasks.select={ids: ['a*'], where: 'true'}")
    assert loaded.experiment.tasks.select.ids == ("a*",)
    assert (
        _load(write(GOOD), "tasks.select.where=a = 'b'").experiment.tasks.select.where == "a = 'b'"
    )


def test_set_does_not_change_the_text_that_is_kept(write):
    assert _load(write(GOOD), "attempts=9").text == GOOD


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("attempts", "--set attempts: write key=value, such as limits.check_s=60"),
        ("=5", "--set =5: write key=value"),
        ("name.first=5", "--set name.first=5: 'name' is not a mapping in the experiment file"),
        ("agents.0.kind=nop", "'agents' is not a mapping in the experiment file"),
        ("limits=[a", "--set limits:1: not valid YAML"),
        ("limits.chekc_s=5", "limits.chekc_s: unknown key; did you mean 'check_s'?"),
        ("attempts=zero", "attempts: "),
        ("budget={usd: 1}", "budget is not in this release"),
    ],
)
def test_a_bad_override_is_named(write, override, words):
    assert words in _message(write(GOOD), override)


def test_an_override_with_more_agents_than_the_file_has_is_explained_as_well(write):
    message = _message(write(GOOD), "agents=[{name: a, kind: nop}, {name: b, kind: oracel}]")
    assert "agents.1: " in message
    assert "did you mean 'oracle'?" in message


# ${VAR}


def test_variables_are_expanded_in_paths_and_uris(write, tmp_path, monkeypatch):
    monkeypatch.setenv("PLACE", "/data/run")
    text = GOOD.replace("tasks.jsonl", "${PLACE}/tasks.jsonl") + (
        "results: ${PLACE}/out\n"
        "environment: {python: '${PLACE}/bin/python'}\n"
        "repositories: {'https://x.invalid/${PLACE}': '${PLACE}/src'}\n"
    )
    experiment = _load(write(text)).experiment
    assert experiment.tasks.source == "/data/run/tasks.jsonl"
    assert experiment.results == "/data/run/out"
    assert experiment.environment.python == "/data/run/bin/python"
    assert experiment.repositories == {"https://x.invalid/${PLACE}": "/data/run/src"}


def test_variables_are_left_alone_everywhere_else(write, monkeypatch):
    monkeypatch.setenv("PLACE", "/data/run")
    agent = "{name: a, kind: scripted, steps: [{run: 'echo ${PLACE} $PLACE'}]}"
    text = GOOD.replace("{name: nop, kind: nop}", agent)
    loaded = _load(write(text))
    steps = loaded.experiment.agents[0].steps
    assert isinstance(steps, tuple)
    assert steps[0].run == "echo ${PLACE} $PLACE"
    message = _message(write(GOOD.replace("name: exp", "name: ${PLACE}")))
    assert "got '${PLACE}'" in message


def test_a_variable_that_is_not_set_is_named_with_its_field(write, monkeypatch):
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    path = write(GOOD + "results: ${NOT_SET_HERE}/out\n")
    expected = f"{path}: results: the environment variable NOT_SET_HERE is not set"
    assert _message(path) == expected


def test_a_home_folder_is_expanded_when_a_path_is_used(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    loaded = _load(write(GOOD + "results: ~/out\n"))
    assert loaded.results_uri == "/home/somebody/out"
