"""The measure stage: all arms of a session, block by block, on one device; then the estimates.

First the check on every arm; an arm that fails it is not timed. Then randomised complete blocks:
in each, every arm once, in random order, with fresh processes and equal inputs. The number of
blocks is fixed after the pilot from its variance, never from its mean.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from pathlib import Path
from typing import NamedTuple

from isobench_ray.base import Base
from isobench_ray.experiment import MeasureSettings
from isobench_ray.failure import FailureClass, fail
from isobench_ray.plumbing import apply_to_tree, checkout_tree
from isobench_ray.process import run_process, tail
from isobench_ray.schema import utc_now
from isobench_ray.session import (
    BASE,
    BASE2,
    CONTROLS,
    HUMAN,
    ArmPlan,
    ArmResult,
    CheckResult,
    Sample,
    Scoreable,
    SessionPlan,
    SessionRecord,
)
from isobench_ray.stages.node import Node, write_files
from isobench_ray.statistics import Contrast, blocks_needed, contrast, log_ratios
from isobench_ray.task import Task, TaskFiles
from isobench_ray.verdict import judge_scoreable
from isobench_ray.workloads import WORKLOADS, ArmBlock, ArmSource, BlockConditions
from isobench_ray.workloads.block import Measuring, contain_arm
from isobench_ray.workspace import open_harness, remove_tree


class MeasureWork(NamedTuple):
    """All that one session needs."""

    plan: SessionPlan
    task: Task
    task_files: TaskFiles
    patches: dict[str, bytes]
    """Diff against base by resulting tree, for every arm but base and base2."""
    settings: MeasureSettings
    admission_id: str | None


def measure(
    work: MeasureWork, base: Base, execution: int, node: Node, artifacts: Path
) -> SessionRecord:
    """Measure one session; leaves logs in `artifacts`, returns the record without their hashes.

    Raises:
        FailureRaised: base or human does not pass its check or yields no metrics, or something
            else failed that says nothing about an agent.
    """
    started_at, start, load_before = utc_now(), time.monotonic(), os.getloadavg()[0]
    session = _Session(work, node, artifacts)
    try:
        arms = session.check_out(base)
        checks = [session.check(arm) for arm in arms]
        _refuse_broken_controls(checks)
        wrong = {check.arm: check.reason or "" for check in checks if not check.passed}
        blocks = session.measure_blocks([arm for arm in arms if arm.name not in wrong])
        wrong |= session.problems
    finally:
        remove_tree(session.folder)
    samples = _samples(blocks, work.task)
    results = _arm_results(work, blocks, wrong)
    name, metric = work.task.workload.primary
    return SessionRecord(
        kind=work.plan.kind,
        task_id=work.plan.task_id,
        session_id=work.plan.session_id,
        identity=work.plan.identity,
        conditions=work.plan.conditions,
        execution=execution,
        seed=work.plan.seed,
        margin_ratio=work.settings.margin_ratio,
        metric=name,
        better=metric.better,
        n_blocks=len(blocks),
        arms=results,
        scoreable=_scoreable(work, results),
        admission_id=work.admission_id,
        checks=tuple(checks),
        samples=samples,
        sandbox=node.sandbox.facts,
        worker=node.facts,
        environment_python=node.environment.version,
        load_before=load_before,
        load_after=os.getloadavg()[0],
        started_at=started_at,
        ended_at=utc_now(),
        duration_s=time.monotonic() - start,
    )


class _Session:
    """The folders of a running session, and the arms that fell out of it."""

    def __init__(self, work: MeasureWork, node: Node, artifacts: Path) -> None:
        self._work, self._node, self._artifacts = work, node, artifacts
        self.folder = node.scratch / "session"
        remove_tree(self.folder)
        self.problems: dict[str, str] = {}
        self._measuring = Measuring(
            sandbox=node.sandbox,
            environment=node.environment,
            task_files=write_files(self.folder / "task", work.task_files.files),
            ledger=node.ledger,
            gpus=node.facts.gpus,
            output_limit_bytes=node.output_limit_bytes,
        )

    def check_out(self, base: Base) -> list[ArmSource]:
        """Write each arm's tree, made from base and its patch, into a folder of its own."""
        harness = open_harness(base, self.folder / "harness.git")
        arms = []
        for arm in self._work.plan.arms:
            patch = b"" if arm.tree == base.tree else self._work.patches[arm.tree]
            tree = apply_to_tree(harness, base.tree, patch)
            if tree != arm.tree:
                raise fail(FailureClass.TREE_MISMATCH, f"{arm.name}: {tree} is not {arm.tree}")
            folder = self.folder / "arms" / arm.name
            checkout_tree(harness, tree, folder)
            arms.append(ArmSource(arm.name, folder))
        return arms

    def check(self, arm: ArmSource) -> CheckResult:
        """Run the check in the arm's tree."""
        scratch = self.folder / "checks" / arm.name
        argv = ["/bin/sh", "-c", self._work.task.check.command]
        contained = contain_arm(self._measuring, argv, arm, scratch, {"PYTHONHASHSEED": "0"})
        limit_s = self._node.limits.check_s
        result = run_process(
            contained.argv,
            cwd=contained.cwd,
            env=contained.env,
            stdout=scratch / "stdout.log",
            stderr=scratch / "stderr.log",
            timeout_s=limit_s,
            output_limit_bytes=self._node.output_limit_bytes,
            ledger=self._node.ledger,
        )
        reason = None
        if result.timed_out:
            reason = f"the check took more than {limit_s:g} s"
        elif result.exit_code != 0:
            words = tail(scratch / "stderr.log", 500) or tail(scratch / "stdout.log", 500)
            reason = f"the check ended with status {result.exit_code}: {words}"
            self._keep(scratch, f"{arm.name}/check")
        return CheckResult(
            arm=arm.name, passed=reason is None, reason=reason, duration_s=result.duration_s
        )

    def measure_blocks(self, arms: list[ArmSource]) -> list[dict[str, ArmBlock]]:
        """The pilot, then as many blocks as its variance asks for; by arm, whole arms only."""
        counts = self._work.settings.blocks
        blocks = [self._block(number, arms) for number in range(counts.pilot)]
        wanted = blocks_needed(
            self._pilot_differences(blocks), self._work.settings.margin_ratio, counts.max
        )
        blocks += [self._block(number, arms) for number in range(len(blocks), wanted)]
        return [{k: v for k, v in block.items() if k not in self.problems} for block in blocks]

    def _block(self, number: int, arms: list[ArmSource]) -> dict[str, ArmBlock]:
        scratch = self.folder / "block"
        conditions = BlockConditions(
            measuring=self._measuring,
            workload=self._work.task.workload,
            seed=block_seed(self._work.plan.seed, number),
            timeout_s=self._node.limits.workload_s,
            scratch=scratch,
        )
        alive = [arm for arm in arms if arm.name not in self.problems]
        measured = WORKLOADS[self._work.task.workload.kind](conditions, alive)
        for result in measured:
            if result.problem is not None:
                self._keep(scratch / result.arm, f"{result.arm}/block-{number}")
                self._refuse_broken_control(result)
                self.problems[result.arm] = f"block {number}: {result.problem}"
        remove_tree(scratch)
        return {result.arm: result for result in measured}

    def _refuse_broken_control(self, result: ArmBlock) -> None:
        if result.arm in CONTROLS:
            human = result.arm == HUMAN
            raise fail(
                FailureClass.HUMAN_WORKLOAD_FAILED if human else FailureClass.BASE_WORKLOAD_FAILED,
                f"{result.arm}: {result.problem}",
            )

    def _pilot_differences(self, blocks: list[dict[str, ArmBlock]]) -> list[list[float]]:
        """The contrasts that must become precise: every arm against base and against human."""
        alive = [name for name in blocks[0] if name not in self.problems]
        pairs = {(a, b) for a in alive for b in (BASE, HUMAN) if a not in (BASE2, b)}
        return [_differences(self._work.task, blocks, arm, other) for arm, other in sorted(pairs)]

    def _keep(self, scratch: Path, name: str) -> None:
        """Keep the logs of a run that went wrong."""
        for log in ("stdout.log", "stderr.log"):
            if (scratch / log).exists():
                target = self._artifacts / name / log
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(scratch / log, target)


def block_seed(session_seed: int, number: int) -> int:
    """Seed of a block: distinct over blocks and sessions, below 2**63."""
    return (session_seed * 1_000_003 + number * 7_919 + 1) % 2**63


def _refuse_broken_controls(checks: list[CheckResult]) -> None:
    for check in checks:
        if check.arm in CONTROLS and not check.passed:
            human = check.arm == HUMAN
            raise fail(
                FailureClass.HUMAN_CHECK_FAILED if human else FailureClass.BASE_CHECK_FAILED,
                f"{check.arm}: {check.reason}",
            )


def _differences(
    task: Task, blocks: list[dict[str, ArmBlock]], arm: str, reference: str
) -> list[float]:
    """Per block: the log-ratio of the primary metric, positive where `arm` is better.

    In lockstep it is the median over the ratios of passes that ran side by side, not the ratio of
    the medians: a burst of foreign load that hits both arms of some passes drops out of it.
    """
    name, metric = task.workload.primary
    lower = metric.better == "lower"
    if blocks[0][arm].passes:
        return [
            statistics.median(log_ratios(block[arm].passes, block[reference].passes, lower))
            for block in blocks
        ]
    values = [[block[a].metrics[name] for block in blocks] for a in (arm, reference)]
    return log_ratios(values[0], values[1], lower)


def _arm_results(
    work: MeasureWork, blocks: list[dict[str, ArmBlock]], wrong: dict[str, str]
) -> tuple[ArmResult, ...]:
    return tuple(
        ArmResult(
            name=arm.name,
            tree=arm.tree,
            trials=arm.trials,
            correct=False,
            incorrect_reason=wrong[arm.name],
        )
        if arm.name in wrong
        else _estimate(work, blocks, arm)
        for arm in work.plan.arms
    )


def _estimate(work: MeasureWork, blocks: list[dict[str, ArmBlock]], arm: ArmPlan) -> ArmResult:
    n_pilot, name = work.settings.blocks.pilot, work.task.workload.primary[0]

    def against(reference: str) -> list[float]:
        return _differences(work.task, blocks, arm.name, reference)

    vs_human: Contrast | None = None
    vs_half_human: Contrast | None = None
    if arm.name not in CONTROLS:
        human_gain = _differences(work.task, blocks, HUMAN, BASE)
        kept = [own - gain / 2 for own, gain in zip(against(BASE), human_gain, strict=True)]
        vs_human, vs_half_human = contrast(against(HUMAN), n_pilot), contrast(kept, n_pilot)
    values = [block[arm.name].metrics[name] for block in blocks]
    return ArmResult(
        name=arm.name,
        tree=arm.tree,
        trials=arm.trials,
        correct=True,
        vs_base=contrast(against(BASE), n_pilot) if arm.name != BASE else None,
        vs_human=vs_human,
        vs_half_human=vs_half_human,
        median=statistics.median(values),
        mean=statistics.fmean(values),
    )


def _scoreable(work: MeasureWork, results: tuple[ArmResult, ...]) -> Scoreable | None:
    human = next(arm for arm in results if arm.name == HUMAN)
    if work.plan.kind != "admission" or human.vs_base is None:
        return None
    return judge_scoreable(human.vs_base, work.settings.margin_ratio)


def _samples(blocks: list[dict[str, ArmBlock]], task: Task) -> tuple[Sample, ...]:
    return tuple(
        Sample(
            block=number,
            arm=result.arm,
            position=result.position,
            metric=name,
            value=result.metrics[name],
            n_passes=len(result.passes) or 1,
            passes=result.passes,
            outside_s=result.outside_s,
        )
        for number, block in enumerate(blocks)
        for result in block.values()
        for name in task.workload.metrics
    )
