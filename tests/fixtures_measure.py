"""Blocks of tiny workloads, for tests that look at one block without a session around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isobench_ray.task import Workload
from isobench_ray.workloads import WORKLOADS, ArmBlock, ArmSource, BlockConditions
from isobench_ray.workloads.block import Measuring
from tests.fixtures_git import make_node, write_all


def measure_block(
    folder: Path,
    workload: dict[str, Any],
    arms: dict[str, dict[str, str]],
    files: dict[str, str] | None = None,
    *,
    seed: int = 1,
    timeout_s: float = 20,
    sandbox: str = "none",
) -> dict[str, ArmBlock]:
    """One block over arms, given as the files of their trees; results by arm."""
    node = make_node(folder / "node", sandbox)
    (folder / "task").mkdir()
    write_all(folder / "task", files or {})
    sources = []
    for name, tree in arms.items():
        (folder / "arms" / name).mkdir(parents=True)
        write_all(folder / "arms" / name, tree)
        sources.append(ArmSource(name, folder / "arms" / name))
    model = Workload.model_validate(workload)
    measuring = Measuring(
        sandbox=node.sandbox,
        environment=node.environment,
        task_files=folder / "task",
        ledger=node.ledger,
        gpus=(),
        output_limit_bytes=10**6,
    )
    conditions = BlockConditions(measuring, model, seed, timeout_s, folder / "block")
    results = WORKLOADS[model.kind](conditions, sources)
    assert list(node.ledger.iterdir()) == []  # nothing was left running
    return {result.arm: result for result in results}
