"""kill -9 of the driver at random moments, in both stages: nothing finished is lost or repeated.

The agents count their own starts in a file that the harness does not know of, so the claim does
not rest on the harness's own books. The sandbox is off, because a sandboxed agent could not.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SEED = 20260


def counting_agents(counter: Path, names: tuple[str, ...]) -> list[dict]:
    """Agents that note their start, work for a moment, and change the file each in its own way."""
    return [
        {
            "name": name,
            "kind": "scripted",
            "steps": [
                {"run": f"echo {name} $(date +%s%N) >> {counter}"},
                {"sleep_s": 2.5},
                {
                    "edit": {
                        "path": "adding.py",
                        "find": "def total",
                        "replace": f"# {name}\ndef total",
                    }
                },
            ],
        }
        for name in names
    ]


def starts(counter: Path) -> list[tuple[str, int]]:
    """(agent, start in nanoseconds) of every start that agents noted."""
    lines = counter.read_text().splitlines() if counter.exists() else []
    return [(line.split()[0], int(line.split()[1])) for line in lines]


def second_starts(counter: Path, results: Path) -> list[str]:
    """Agents that started although their trial had a journal."""
    journals = {
        p.parts[-3]: p.stat().st_mtime_ns for p in results.glob("trials/*/*/*/journal.json")
    }
    return [name for name, start in starts(counter) if start > journals.get(name, start)]


def kill_when(process, condition, delay_s: float) -> None:
    """SIGKILL a driver a random moment after a condition holds."""
    deadline = time.monotonic() + 120
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "the moment to kill never came"
        time.sleep(0.02)
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_nothing_finished_is_lost_or_repeated_when_the_driver_is_killed(cli, tiny):
    draw = random.Random(SEED)
    counter, results = tiny.folder / "counter", tiny.folder / "experiment-results"
    names = tuple(f"agent-{n}" for n in range(8))
    tasks = [tiny.task(), tiny.task(task_id="sum-again")]
    agents = counting_agents(counter, names)
    for agent in agents[:4]:
        agent["select"] = {"ids": ["sum"]}
    for agent in agents[4:]:
        agent["select"] = {"ids": ["sum-again"]}
    experiment = tiny.write(
        tasks,
        agents=agents,
        sandbox={"kind": "none"},
        resources={"solve": {"concurrency": 2}},
        measure={"blocks": {"pilot": 6, "max": 6}},
    )

    def claims(stage: str) -> int:
        return len(list(results.glob(f"{stage}/*/**/claim.json")))

    for stages in (("trials",), ("admissions", "sessions")):
        for _ in range(3):
            before = sum(claims(stage) for stage in stages)
            process = cli.start("run", experiment)
            try:
                kill_when(
                    process,
                    lambda s=stages, b=before: sum(claims(stage) for stage in s) > b,
                    draw.uniform(0.0, 1.2),
                )
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        if stages == ("trials",):
            done = cli("run", experiment, "--stage", "solve")
            assert done.returncode == 0, done.stderr

    done = cli("run", experiment)
    assert done.returncode == 0, done.stderr
    report = json.loads(cli("report", results, "--format", "json").stdout)
    assert report["state"] == "complete"
    assert report["planned"] == len(names)
    assert report["counts"] == {"patch": len(names)}
    assert len(list(results.glob("trials/*/*/*/journal.json"))) == len(names)
    assert cli("verify", results).returncode == 0

    executions = Counter(p.parts[-5] for p in results.glob("trials/*/*/*/executions/*/claim.json"))
    assert all(
        executions[name] >= count for name, count in Counter(n for n, _ in starts(counter)).items()
    )
    assert second_starts(counter, results) == []
    claims_made = len(list(results.glob("*/*/**/claim.json")))
    places = (
        "trials/*/*/*/journal.json",
        "sessions/*/*/session.json",
        "admissions/*/*/admission.json",
    )
    records = sum(len(list(results.glob(place))) for place in places)
    lost = report["lost_executions"]
    assert len(lost) == claims_made - records, "what was started and yielded no record is listed"
    assert len(lost) >= 2, "the kills hit running work"
    assert {e["failure_class"] for e in lost} == {"driver_died"}

    # Positive control: without its journal a trial is run again, and the agents' counter tells.
    journal = next(results.glob("trials/sum/agent-0/*/journal.json"))
    kept = journal.stat().st_mtime_ns
    journal.unlink()
    assert cli("run", experiment, "--stage", "solve").returncode == 0
    again = [start for name, start in starts(counter) if name == "agent-0"]
    assert max(again) > kept


def test_a_killed_worker_is_a_failure_that_is_repeated(cli, tiny):
    counter, results = tiny.folder / "counter", tiny.folder / "experiment-results"
    script = f"echo x >> {counter}; if [ $(wc -l < {counter}) = 1 ]; then sleep 60; fi"
    agent = {"name": "slow-once", "kind": "scripted", "steps": [{"run": script}]}
    experiment = tiny.write(agents=[agent], sandbox={"kind": "none"})
    process = cli.start("run", experiment, "--stage", "solve")
    try:
        claim = results / "trials/sum/slow-once/attempt-1/executions/1/claim.json"
        deadline = time.monotonic() + 90
        while not (claim.exists() and counter.exists()):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(json.loads(claim.read_text())["worker"]["pid"], signal.SIGKILL)
        output, _ = process.communicate(timeout=90)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output
    assert "worker_died" in output
    report = json.loads(cli("report", results, "--format", "json").stdout)
    assert report["counts"] == {"no_patch": 1}
    assert [e["failure_class"] for e in report["lost_executions"]] == ["worker_died"]
