"""nop: does nothing. Whatever it seems to win is noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from isobench_ray.agents.protocol import Account, AgentInput, AgentPaths
from isobench_ray.experiment import AgentSpec
from isobench_ray.task import Task


class Nop:
    """A prepared agent whose patch is empty."""

    version = "1"

    def load(
        self, spec: AgentSpec, task: Task, human_diff: bytes, read: Callable[[str], bytes]
    ) -> AgentInput:
        """An empty patch."""
        return AgentInput(config={}, files={}, patch=b"")

    def command(self, paths: AgentPaths) -> list[str] | None:
        """No program."""
        return None

    def read_account(self, folder: Path) -> Account:
        """Nothing was used."""
        return Account()
