"""python -m tests.calibration [--sessions N] [--out FILE] [--summary]: many sessions per task.

Measures every quickstart task again and again, each time with a fresh random seed for the
admission and for the session, through the same stage functions as a run, without Ray. One line
per session is appended to FILE, so it can be stopped and resumed; `--summary` only prints the
tables. Needs a quiet machine; takes about ten seconds per session. The file
measured-2026-11-22.jsonl.gz beside this one holds what the README quotes:
`python -m tests.calibration --summary --out tests/calibration/measured-2026-11-22.jsonl.gz`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import secrets
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from isobench_ray.experiment_file import load_experiment
from isobench_ray.planning import PlannedTask, ResolvedExperiment, admission_plan, measure_plans
from isobench_ray.resolve import resolve_experiment
from isobench_ray.results import Snapshot
from isobench_ray.session import BASE2, SessionPlan, SessionRecord
from isobench_ray.stages.measure import MeasureWork, measure
from isobench_ray.stages.node import Node, open_node
from isobench_ray.stages.solve import SolveWork, solve
from isobench_ray.statistics import binomial_band, wilson_interval
from isobench_ray.trial import TrialRecord
from isobench_ray.verdict import Verdict, judge_trial
from isobench_ray.workspace import remove_tree

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "quickstart.yaml"
EXPECTED = {
    "oracle": lambda v: v["passed"],
    "equivalent": lambda v: v["vs_human"] == "matches",
    "bigger": lambda v: v["passed"] and v["vs_human"] == "beats",
    "partial": lambda v: v["vs_base"] == "faster" and v["vs_human"] == "worse",
    "slower": lambda v: v["vs_base"] == "slower",
    "wrong": lambda v: v["validity"] == "incorrect",
    "stale": lambda v: v["validity"] == "does_not_apply",
    "placebo": lambda v: not v["passed"],
    "nop": lambda v: not v["passed"],
    "dawdler": lambda v: not v["passed"],
    "crasher": lambda v: not v["passed"],
}
GAINLESS = "minserve-latency-quantile"


def main() -> None:
    """Measure what is missing, then print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.calibration")
    parser.add_argument("--sessions", type=int, default=30, help="sessions per task")
    parser.add_argument("--out", type=Path, default=Path("bench-results/calibration.jsonl"))
    parser.add_argument("--summary", action="store_true", help="print the tables and end")
    arguments = parser.parse_args()
    if not arguments.summary:
        measure_missing(arguments.out, arguments.sessions)
    sys.exit(print_summary(read_rows(arguments.out)))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The sessions measured so far."""
    if not path.exists():
        return []
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def measure_missing(path: Path, sessions: int) -> None:
    """Round after round over the tasks, so that all of them meet the same hours."""
    resolved = resolve_experiment(load_experiment(EXPERIMENT))
    experiment = resolved.loaded.experiment
    path.parent.mkdir(parents=True, exist_ok=True)
    done: dict[str, int] = defaultdict(int)
    for row in read_rows(path):
        done[row["task_id"]] += 1
    with tempfile.TemporaryDirectory() as scratch:
        node = open_node(
            experiment.environment, experiment.sandbox, experiment.limits, Path(scratch) / "node"
        )
        journals = {task_id: _solve_all(resolved, task_id, node) for task_id in resolved.tasks}
        for number in range(sessions):
            for task_id, planned in resolved.tasks.items():
                if done[task_id] > number:
                    continue
                row = _measure_once(resolved, planned, journals[task_id], node)
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{task_id} {number + 1}/{sessions}", file=sys.stderr, flush=True)


def _solve_all(
    resolved: ResolvedExperiment, task_id: str, node: Node
) -> list[tuple[TrialRecord, bytes]]:
    """Run every trial of a task once: its record, and the text of its patch."""
    planned, found = resolved.tasks[task_id], []
    base = planned.repository.bake(planned.resolved.base_tree)
    for trial in resolved.trials.values():
        if trial.trial.task_id != task_id or trial.agent is None:
            continue
        work = SolveWork(
            trial.trial, planned.task, planned.files, trial.spec.kind, trial.agent,
            trial.prompt, trial.agent_wall_s, 1,
        )  # fmt: skip
        remove_tree(node.scratch)
        artifacts = node.scratch / "artifacts"
        artifacts.mkdir(parents=True)
        record = solve(work, base, 1, node, artifacts)
        found.append((record, (artifacts / "model_patch.diff").read_bytes()))
    return found


def _measure_once(
    resolved: ResolvedExperiment,
    planned: PlannedTask,
    journals: list[tuple[TrialRecord, bytes]],
    node: Node,
) -> dict[str, Any]:
    """One admission and one session under fresh seeds, and the verdicts on all trials."""
    empty = Snapshot({}, [], [], [])
    admission_of = admission_plan(planned)
    (session_of,) = measure_plans(planned, [record for record, _ in journals], empty)
    patches = {planned.resolved.human_tree: planned.resolved.human_diff} | {
        record.patch.tree: text for record, text in journals if record.patch and record.patch.tree
    }
    records: list[SessionRecord] = []
    for plan in (admission_of, session_of):
        seeded: SessionPlan = plan.model_copy(update={"seed": secrets.randbits(48)})
        work = MeasureWork(
            seeded, planned.task, planned.files, patches, resolved.loaded.experiment.measure, None
        )
        base = planned.repository.bake(planned.resolved.base_tree)
        remove_tree(node.scratch)
        artifacts = node.scratch / "artifacts"
        artifacts.mkdir(parents=True)
        records.append(measure(work, base, 1, node, artifacts))
    admission, session = records
    verdicts = {
        record.agent: _judge(record, session, admission).model_dump(mode="json")
        for record, _ in journals
    }
    return {
        "task_id": planned.task.task_id,
        "admission_seed": admission.seed,
        "session_seed": session.seed,
        "scoreable": admission.scoreable,
        "admission": _contrasts(admission),
        "session": _contrasts(session),
        "verdicts": verdicts,
        "load": session.load_after,
        "seconds": admission.duration_s + session.duration_s,
    }


def _judge(record: TrialRecord, session: SessionRecord, admission: SessionRecord) -> Verdict:
    trial = (record.task_id, record.agent, record.attempt)
    return judge_trial(trial, record.trial_id, record.patch, session, admission.scoreable)


def _contrasts(session: SessionRecord) -> dict[str, dict[str, float]]:
    found = {}
    for arm in session.arms:
        for reference in ("vs_base", "vs_human"):
            contrast = getattr(arm, reference)
            if contrast is not None:
                found[f"{arm.name} {reference}"] = contrast.model_dump()
    return found


def print_summary(rows: list[dict[str, Any]]) -> int:
    """All tables; 1 when a bound is not met."""
    _print_seeds(rows)
    _print_spread(rows)
    failed = _print_bounds(rows)
    return 1 if failed else 0


def _print_seeds(rows: list[dict[str, Any]]) -> None:
    print("## Seeds (admission/session)\n")
    by_task = defaultdict(list)
    for row in rows:
        by_task[row["task_id"]].append(f"{row['admission_seed']}/{row['session_seed']}")
    for task_id, seeds in sorted(by_task.items()):
        print(f"- {task_id}: {' '.join(seeds)}")
    print()


def _print_spread(rows: list[dict[str, Any]]) -> None:
    print("## Paired standard deviation per block, in logarithms, over sessions\n")
    print("| task | contrast | sessions | mean | sd: median | sd: 90th percentile |")
    print("|---|---|---|---|---|---|")
    spread = defaultdict(list)
    for row in rows:
        for kind in ("admission", "session"):
            for name, contrast in row[kind].items():
                spread[row["task_id"], f"{kind}: {name}"].append(contrast)
    for (task_id, name), contrasts in sorted(spread.items()):
        sds = sorted(contrast["sd"] for contrast in contrasts)
        mean = statistics.fmean(contrast["mean"] for contrast in contrasts)
        high = sds[min(len(sds) - 1, math.ceil(0.9 * len(sds)) - 1)]
        print(
            f"| {task_id} | {name} | {len(sds)} | {mean:+.4f} | {statistics.median(sds):.4f} "
            f"| {high:.4f} |"
        )
    print()


def _print_bounds(rows: list[dict[str, Any]]) -> list[str]:
    """Each claim, its count and its bound; the claims that do not hold."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        for agent, verdict in row["verdicts"].items():
            if agent != "oracle" or row["task_id"] != GAINLESS:
                hits[agent].append(bool(EXPECTED[agent](verdict)))
    made = [hit for a in ("bigger", "partial", "slower", "wrong", "stale") for hit in hits[a]]
    gainless = [row["scoreable"] for row in rows if row["task_id"] == GAINLESS]
    aa = [
        contrast["low"] > 0 or contrast["high"] < 0
        for row in rows
        for contrast in (row["admission"][f"{BASE2} vs_base"], row["session"][f"{BASE2} vs_base"])
    ]
    low, high = binomial_band(len(aa), 0.05, 0.99)
    claims = [(f"{agent}: as expected", sum(h), len(h), _least(agent)) for agent, h in hits.items()]
    neutral = hits["placebo"] + hits["nop"]
    claims += [
        ("placebo and nop together: not passed", sum(neutral), len(neutral), 1.0),
        ("bigger, partial, slower, wrong, stale together", sum(made), len(made), 0.95),
        ("gainless: not in the headline set", sum(s != "headline" for s in gainless),
         len(gainless), 1.0),
        ("gainless: not_scoreable", sum(s == "not_scoreable" for s in gainless),
         len(gainless), 0.9),
    ]  # fmt: skip
    print("## Verdicts\n\n| claim | count | share (95 % Wilson) | at least | holds |")
    print("|---|---|---|---|---|")
    failed = []
    for name, count, n, least in claims:
        holds = n > 0 and count >= least * n
        interval = wilson_interval(count, n) or (0.0, 1.0)
        share = f"{count / max(n, 1):.1%} [{interval[0]:.1%}, {interval[1]:.1%}]"
        print(f"| {name} | {count}/{n} | {share} | {least:.0%} | {'yes' if holds else 'NO'} |")
        failed += [] if holds else [name]
    holds = low <= sum(aa) <= high
    band = f"{low}-{high} (99 % binomial band of 5 %)"
    interval = wilson_interval(sum(aa), len(aa)) or (0.0, 1.0)
    rate = f"{sum(aa) / max(len(aa), 1):.1%} [{interval[0]:.1%}, {interval[1]:.1%}]"
    print(f"| A/A: intervals that leave 0 out | {sum(aa)}/{len(aa)} | {rate} | {band} | "
          f"{'yes' if holds else 'NO'} |")  # fmt: skip
    seconds = [row["seconds"] for row in rows]
    print(f"\n{len(rows)} sessions with their admissions; {sum(seconds) / 60:.0f} minutes.\n")
    return failed if holds else [*failed, "A/A"]


def _least(agent: str) -> float:
    """The least share of sessions with the expected verdict."""
    if agent in ("oracle", "equivalent"):
        return 0.9
    return 0.85 if agent in ("bigger", "partial", "slower", "wrong", "stale") else 1.0


if __name__ == "__main__":
    main()
