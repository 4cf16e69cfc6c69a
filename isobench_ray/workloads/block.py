"""One block: what it is given, and what it yields of each arm. Shared by all kinds of workload."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

from isobench_ray.environment import Environment
from isobench_ray.sandbox import ContainedCommand, Mount, Sandbox
from isobench_ray.task import Workload

TREE, TASK, SCRATCH, HARNESS = "/workspace", "/task", "/scratch", "/harness"
ROOM = "room"
"""What a run may write to, inside its scratch folder; its logs lie beside it, out of its reach."""
RUNNERS = Path(__file__).resolve().parent.parent / "runners"


class ArmSource(NamedTuple):
    """An arm and the checkout of its tree."""

    name: str
    tree: Path


class ArmBlock(NamedTuple):
    """What one block yields of one arm: metrics, or the reason why there are none."""

    arm: str
    position: int
    metrics: dict[str, float]
    passes: tuple[float, ...]
    outside_s: float
    problem: str | None = None


class Measuring(NamedTuple):
    """What all runs of a session share."""

    sandbox: Sandbox
    environment: Environment
    task_files: Path
    ledger: Path
    gpus: tuple[str, ...]
    output_limit_bytes: int


class BlockConditions(NamedTuple):
    """What all arms of one block share."""

    measuring: Measuring
    workload: Workload
    seed: int
    """Seed of this block: request seed of the workload, and of the arms' order."""
    timeout_s: float
    scratch: Path
    """An empty folder for this block."""

    def shuffled(self, arms: list[ArmSource]) -> list[ArmSource]:
        """The arms in this block's random order."""
        order = list(arms)
        random.Random(self.seed).shuffle(order)
        return order


def contain_arm(
    measuring: Measuring, argv: list[str], arm: ArmSource, scratch: Path, env: dict[str, str]
) -> ContainedCommand:
    """A command in the arm's tree (read-only), with a fresh HOME, TMPDIR and compile cache.

    In `argv`, `{TASK}` and `{HARNESS}` stand for the folders as the program sees them.
    """
    for name in ("home", "tmp"):
        (scratch / ROOM / name).mkdir(parents=True)
    sandbox = measuring.sandbox
    tree, inner = Mount(arm.tree, TREE), Mount(scratch / ROOM, SCRATCH, writable=True)
    task, harness = Mount(measuring.task_files, TASK), Mount(RUNNERS, HARNESS)
    place = sandbox.path(inner)
    variables = measuring.environment.variables(f"{place}/home", f"{place}/tmp") | {
        "ISOBENCH_TASK": sandbox.path(task),
        "ISOBENCH_METRICS": f"{place}/metrics.json",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    names = {"{TASK}": sandbox.path(task), "{HARNESS}": sandbox.path(harness)}
    for placeholder, path in names.items():
        argv = [word.replace(placeholder, path) for word in argv]
    mounts = [tree, inner, task, harness]
    return sandbox.contain(argv, mounts, tree, variables | env, measuring.gpus)
