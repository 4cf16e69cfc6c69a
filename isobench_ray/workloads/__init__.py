"""Workloads: how one block of samples is taken from the arms of a session."""

from __future__ import annotations

from collections.abc import Callable

from isobench_ray.workloads.block import ArmBlock, ArmSource, BlockConditions
from isobench_ray.workloads.command import measure_command_block
from isobench_ray.workloads.python import measure_python_block

__all__ = ["WORKLOADS", "ArmBlock", "ArmSource", "BlockConditions"]

WORKLOADS: dict[str, Callable[[BlockConditions, list[ArmSource]], list[ArmBlock]]] = {
    "command": measure_command_block,
    "python": measure_python_block,
}
"""By kind: measure one block of all given arms, in random order."""
