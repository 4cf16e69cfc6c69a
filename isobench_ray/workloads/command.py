"""command workloads: any program; its metrics are one JSON object in $ISOBENCH_METRICS."""

from __future__ import annotations

import json
import math
from pathlib import Path

from isobench_ray.process import run_process, tail
from isobench_ray.sandbox import read_untrusted
from isobench_ray.task import Workload
from isobench_ray.workloads.block import (
    ROOM,
    ArmBlock,
    ArmSource,
    BlockConditions,
    contain_arm,
)

METRICS_LIMIT_BYTES = 1_000_000


def measure_command_block(conditions: BlockConditions, arms: list[ArmSource]) -> list[ArmBlock]:
    """Run the command once in each arm's tree, one after the other, in random order."""
    order = conditions.shuffled(arms)
    return [_measure_arm(conditions, arm, position) for position, arm in enumerate(order)]


def _measure_arm(conditions: BlockConditions, arm: ArmSource, position: int) -> ArmBlock:
    measuring, scratch = conditions.measuring, conditions.scratch / arm.name
    argv = ["/bin/sh", "-c", conditions.workload.command or ""]
    env = {"ISOBENCH_SEED": str(conditions.seed), "PYTHONHASHSEED": str(conditions.seed % 2**32)}
    contained = contain_arm(measuring, argv, arm, scratch, env)
    result = run_process(
        contained.argv,
        cwd=contained.cwd,
        env=contained.env,
        stdout=scratch / "stdout.log",
        stderr=scratch / "stderr.log",
        timeout_s=conditions.timeout_s,
        output_limit_bytes=measuring.output_limit_bytes,
        ledger=measuring.ledger,
    )
    metrics: dict[str, float] = {}
    if result.timed_out:
        problem: str | None = f"the workload took more than {conditions.timeout_s:g} s"
    elif result.exit_code != 0:
        words = tail(scratch / "stderr.log") or tail(scratch / "stdout.log")
        problem = f"the workload ended with status {result.exit_code}: {words}"
    else:
        metrics, problem = read_metrics(scratch / ROOM / "metrics.json", conditions.workload)
    return ArmBlock(arm.name, position, metrics, (), result.duration_s, problem)


def read_metrics(path: Path, workload: Workload) -> tuple[dict[str, float], str | None]:
    """The declared metrics of a run, or what is wrong with them."""
    text = read_untrusted(path, METRICS_LIMIT_BYTES)
    if text is None:
        return {}, "the workload wrote no $ISOBENCH_METRICS"
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        return {}, f"$ISOBENCH_METRICS is not JSON: {error}"
    if not isinstance(data, dict):
        return {}, "$ISOBENCH_METRICS must hold one JSON object"
    metrics = {}
    for name in workload.metrics:
        value = _positive(data.get(name))
        if value is None:
            said = repr(data.get(name))[:80]
            return {}, f"metric {name} must be a positive, finite number; got {said}"
        metrics[name] = value
    return metrics, None


def _positive(value: object) -> float | None:
    """A metric's value; None unless it is a positive, finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and number > 0 else None
