"""oracle: hands in the human's own diff. What it does not win, nobody can."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from isobench_ray.agents.protocol import Account, AgentInput, AgentPaths
from isobench_ray.experiment import AgentSpec
from isobench_ray.schema import sha256_hex
from isobench_ray.task import Task


class Oracle:
    """A prepared agent whose patch is the human's diff."""

    version = "1"

    def load(
        self, spec: AgentSpec, task: Task, human_diff: bytes, read: Callable[[str], bytes]
    ) -> AgentInput:
        """The human's diff."""
        return AgentInput(
            config={"patch_sha256": sha256_hex(human_diff)}, files={}, patch=human_diff
        )

    def command(self, paths: AgentPaths) -> list[str] | None:
        """No program."""
        return None

    def read_account(self, folder: Path) -> Account:
        """Nothing was used."""
        return Account()
