"""The command line on good and bad input: one clear message, the right exit code, nothing written.

Bad input never starts Ray unless it is about what the machine has.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isobench_ray.process import start_ticks
from tests.fixtures_git import require_bubblewrap

HEAVY = ("ray", "numpy", "scipy", "pyarrow", "boto3", "git", "duckdb")


def refused(cli, listing, tiny, experiment: Path, *arguments: str, code: int = 2) -> str:
    """Run, expect a refusal that leaves the results path as it was, and return the message."""
    results = tiny.folder / f"{experiment.stem}-results"
    before = listing(results)
    done = cli("run", experiment, *arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert listing(results) == before
    return done.stderr


def test_help_loads_none_of_the_heavy_packages():
    code = (
        "import sys; sys.argv = ['isobench-ray', '--help']\n"
        "from isobench_ray.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_probe_for_heavy_packages_sees_them_when_a_command_needs_them():
    code = f"import sys, isobench_ray.api; print([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'ray'" in done.stdout
    assert "'duckdb'" in done.stdout


def test_an_unknown_key_is_refused_with_the_near_one(cli, listing, tiny):
    experiment = tiny.write(atempts=2)
    message = refused(cli, listing, tiny, experiment)
    assert f"{experiment}:" in message
    assert "did you mean 'attempts'?" in message


def test_a_wrong_type_names_line_and_field(cli, listing, tiny):
    message = refused(cli, listing, tiny, tiny.write(attempts="often"))
    assert "attempts" in message
    assert "often" in message


def test_a_missing_experiment_file_is_refused(cli, tiny):
    done = cli("run", tiny.folder / "none.yaml")
    assert done.returncode == 2
    assert "none.yaml" in done.stderr


def test_a_missing_task_file_is_refused(cli, listing, tiny):
    message = refused(cli, listing, tiny, tiny.write(tasks={"from": "none.jsonl"}))
    assert "none.jsonl" in message


def test_a_malformed_commit_hash_is_refused(cli, listing, tiny):
    experiment = tiny.write([tiny.task(base_commit="abc123")])
    message = refused(cli, listing, tiny, experiment)
    assert "base_commit" in message
    assert "abc123" in message


def test_duplicate_task_ids_are_refused(cli, listing, tiny):
    message = refused(cli, listing, tiny, tiny.write([tiny.task(), tiny.task()]))
    assert "'sum' stands already at" in message


def test_a_selection_of_nothing_is_refused(cli, listing, tiny):
    experiment = tiny.write()
    text = experiment.read_text().replace(
        "from: experiment.jsonl", 'from: experiment.jsonl\n  select: {where: "false"}'
    )
    experiment.write_text(text)
    assert "selects none of the 1 tasks" in refused(cli, listing, tiny, experiment)


def test_an_unwritable_results_path_is_refused(cli, tiny):
    (tiny.folder / "file").write_text("")
    done = cli("run", tiny.write(), "--results", tiny.folder / "file" / "results")
    assert done.returncode == 2
    assert "is not a folder" in done.stderr
    done = cli("run", tiny.write(), "--results", "/proc/results")
    assert done.returncode == 2
    assert "cannot write results" in done.stderr


def test_results_on_s3_are_refused_by_name(cli, tiny):
    done = cli("run", tiny.write(), "--results", "s3://bucket/prefix")
    assert done.returncode == 2
    assert "s3:// are not in this release" in done.stderr


def test_a_folder_that_is_no_results_folder_is_refused_and_left_alone(cli, listing, tiny):
    strange = tiny.folder / "experiment-results"
    strange.mkdir()
    (strange / "thesis.tex").write_text("years of work")
    assert "not a results folder" in refused(cli, listing, tiny, tiny.write())


@pytest.mark.parametrize("command", ["compare", "doctor", "view", "judge", "import", "init"])
def test_later_commands_are_refused_by_name(cli, command):
    done = cli(command, "--anything")
    assert done.returncode == 2
    assert f"`{command}` is not in this release" in done.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": {"usd": 3}}, "budget is not in this release"),
        ({"stop_if": {"failures": 0.5}}, "stop_if is not in this release"),
        ({"environment": {"kind": "venv"}}, "'venv' is not in this release"),
        ({"sandbox": {"network": "gateway-only"}}, "'gateway-only' is not in this release"),
        ({"agents": [{"name": "t", "kind": "trae"}]}, "'trae' is not in this release"),
    ],
)
def test_settings_of_later_releases_are_refused_by_name(cli, listing, tiny, changes, words):
    assert words in refused(cli, listing, tiny, tiny.write(**changes))


def test_plan_says_what_would_run_and_writes_nothing(cli, listing, tiny):
    done = cli("plan", tiny.write())
    assert done.returncode == 0, done.stderr
    assert "2 trials planned, 0 finished, 2 to run" in done.stdout
    assert "solve    sum/nop/attempt-1" in done.stdout
    assert listing(tiny.folder / "experiment-results") == []


def test_an_address_where_no_cluster_answers_is_refused_at_once(cli, listing, tiny):
    start = time.monotonic()
    message = refused(cli, listing, tiny, tiny.write(), "--address", "127.0.0.1:1")
    assert "--address 127.0.0.1:1: no Ray cluster answers there" in message
    assert time.monotonic() - start < 30


@pytest.mark.ray
def test_a_gpu_that_is_not_there_is_refused_with_the_nearest_shape(cli, listing, tiny):
    experiment = tiny.write(resources={"measure": {"gpus": 1}})
    message = refused(cli, listing, tiny, experiment, "--gpus", "0")
    assert "resources.measure: no node has 1 CPU, 1 GPU" in message
    assert "nearest:" in message


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_from_start_to_report_and_again(cli, listing, tiny):
    experiment = tiny.write()
    results = tiny.folder / "experiment-results"
    done = cli("run", experiment)
    assert done.returncode == 0, done.stderr
    assert "results:" in done.stdout
    assert "next: isobench-ray report" in done.stdout

    report = json.loads(cli("report", results, "--format", "json").stdout)
    assert report["state"] == "complete"
    assert report["counts"] == {"no_patch": 1, "patch": 1}
    words = {t["agent"]: t["verdict"] for t in report["trials"]}
    assert words["nop"]["validity"] == "no_patch"
    assert words["oracle"]["same_tree_as"] == "human"
    assert words["oracle"]["vs_base"] == "faster"
    assert "| sum " in (results / "report.md").read_text()

    trial = results / "trials/sum/oracle/attempt-1"
    for name in ("journal.json", "model_patch.diff", "trajectory.json", "run_summary.json"):
        assert (trial / name).read_bytes()
    assert cli("verify", results).returncode == 0
    assert "return sum(values)" in cli("show", results, "sum/oracle", "--patch").stdout
    assert "complete" in cli("status", results).stdout

    journals = [p for p in listing(results) if p[0].endswith(("journal.json", "session.json"))]
    start = time.monotonic()
    again = cli("run", experiment)
    assert again.returncode == 0
    assert time.monotonic() - start < 15
    assert [p for p in listing(results) if p[0].endswith(("journal.json", "session.json"))] == (
        journals
    )

    # Results of another experiment, and finished work under other conditions.
    other = tiny.write(name="other", results="experiment-results")
    assert "Results of the experiment 'experiment'" in cli("run", other).stderr
    changed = tiny.write([tiny.task(instruction="Something else is slow.")])
    assert "finished under other conditions" in refused(cli, listing, tiny, changed)

    # It may grow: a new agent, and nothing finished is run again.
    grown = tiny.write(
        agents=[
            {"name": "nop", "kind": "nop"},
            {"name": "oracle", "kind": "oracle"},
            {"name": "second", "kind": "oracle"},
        ]
    )
    assert "3 trials planned, 2 finished, 1 to run" in cli("plan", grown).stdout

    # A damaged artifact and a table that lost its rows are found.
    patch = next((trial / "executions").glob("*/model_patch.diff"))
    patch.write_text("something else")
    found = cli("verify", results)
    assert found.returncode == 1
    assert "does not have the recorded hash" in found.stdout


@pytest.mark.ray
@pytest.mark.slow
def test_a_commit_that_no_source_has_is_a_failure_of_its_task_alone(cli, tiny):
    lost = tiny.task(task_id="lost", human_commit="0123456789" * 4)
    experiment = tiny.write([tiny.task(), lost], agents=[{"name": "nop", "kind": "nop"}])
    done = cli("run", experiment)
    assert done.returncode == 1, done.stderr
    results = tiny.folder / "experiment-results"
    report = json.loads(cli("report", results, "--format", "json").stdout)
    assert report["counts"] == {"failure": 1, "no_patch": 1}
    (failure,) = report["failures"]
    assert failure["failure_class"] == "commit_unknown"
    assert "0123456789" in failure["message"]
    assert failure["work"] == ["lost/nop/attempt-1"]


@pytest.mark.ray
@pytest.mark.slow
def test_a_second_driver_is_refused_and_a_signal_drains(cli, tiny):
    sleeper = {"name": "sleeper", "kind": "scripted", "steps": [{"sleep_s": 4}]}
    experiment = tiny.write(agents=[sleeper], attempts=3, resources={"solve": {"concurrency": 1}})
    results = tiny.folder / "experiment-results"
    first = cli.start("run", experiment)
    try:
        _wait_for(lambda: list(results.glob("trials/*/*/*/executions/1/claim.json")), first)
        second = cli("run", experiment)
        assert second.returncode == 2
        assert f"pid {first.pid}" in second.stderr
        os.kill(first.pid, signal.SIGINT)
        output, _ = first.communicate(timeout=60)
    finally:
        _end(first)
    assert first.returncode == 3, output
    assert "go on with: isobench-ray run" in output
    journals = list(results.glob("trials/*/*/*/journal.json"))
    assert len(journals) == 1, "what ran was finished, nothing new was started"
    report = json.loads(cli("report", results, "--format", "json").stdout)
    assert report["lost_executions"] == []


@pytest.mark.ray
@pytest.mark.slow
def test_a_second_signal_cuts_running_work_off_and_leaves_no_process(cli, tiny):
    """Without a sandbox, whose PID namespace would do it alone."""
    pids = tiny.folder / "pids"
    script = f"echo $$ >> {pids}; sleep 321 & echo $! >> {pids}; wait"
    agent = {"name": "sleeper", "kind": "scripted", "steps": [{"run": script}]}
    experiment = tiny.write(agents=[agent], sandbox={"kind": "none"})
    results = tiny.folder / "experiment-results"
    process = cli.start("run", experiment)
    try:
        _wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2, process)
        living = [int(pid) for pid in pids.read_text().split()]
        assert all(start_ticks(pid) is not None for pid in living)
        for _ in range(2):
            os.kill(process.pid, signal.SIGINT)
            time.sleep(1)
        output, _ = process.communicate(timeout=60)
    finally:
        _end(process)
    assert process.returncode == 3, output
    assert "second signal" in output
    assert [pid for pid in living if start_ticks(pid) is not None] == []  # zombies count as dead
    report = json.loads(cli("report", results, "--format", "json").stdout)
    assert [e["failure_class"] for e in report["lost_executions"]] == ["driver_died"]
    assert report["counts"] == {"failure": 1}


def _wait_for(condition, process, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def _end(process) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# audit-workspace


def test_the_audit_prints_each_way_and_finds_none_open(cli, tiny):
    require_bubblewrap()
    done = cli("audit-workspace", tiny.write(), "sum")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sum: no way open (18 tried; bubblewrap," in done.stdout
    assert "replaying the human's diff gives the human's tree" in done.stdout
    assert done.stdout.count("  closed  ") == 18
    assert done.stdout.endswith("1 tasks audited, 1 without a finding, 0 open ways\n")


def test_the_audit_ends_with_1_and_names_what_is_open_without_a_sandbox(cli, tiny):
    experiment = tiny.write([tiny.task(task_id="one"), tiny.task(task_id="two")])
    done = cli("audit-workspace", experiment, "t*", "--set", "sandbox.kind=none", "--format=json")
    assert done.returncode == 1, done.stderr
    (report,) = json.loads(done.stdout)
    found = {way["way"]: way["found"] for way in report["ways"] if way["found"]}
    assert report["task_id"] == "two"
    assert report["human_tree"] == report["replayed_tree"]
    assert str(tiny.folder / "tiny" / ".git") in found["other repositories"]
    assert "human objects" not in found


def test_the_audit_refuses_a_task_that_is_not_there(cli, tiny):
    done = cli("audit-workspace", tiny.write(), "summ")
    assert done.returncode == 2
    assert "no task 'summ'; did you mean 'sum'?" in done.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"workspace": {"kind": "overlay"}, "sandbox": {"kind": "none"}},
            ("overlay_unavailable", "set workspace.kind to auto or copy"),
        ),
        (
            {"environment": {"python": "/nowhere/python"}},
            ("interpreter_missing", "set environment.python"),
        ),
    ],
)
def test_what_keeps_the_audit_from_starting_is_bad_input_with_advice(cli, tiny, changes, words):
    done = cli("audit-workspace", tiny.write(**changes))
    assert done.returncode == 2, done.stderr
    assert all(word in done.stderr for word in words)


def test_a_task_that_cannot_be_resolved_is_named_by_the_audit(cli, tiny):
    done = cli("audit-workspace", tiny.write([tiny.task(human_commit="f" * 40)]))
    assert done.returncode == 2, done.stderr
    assert "commit_unknown" in done.stderr
    assert "correct the hash in the task" in done.stderr
